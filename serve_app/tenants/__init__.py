"""Who asks, and how much of the server is theirs.

token_bucket.py limits a rate. tenant.py is the owner of one API key: its limits, what it has in flight. cache_salt.py
keeps their prefix caches apart. key_store.py finds the tenant of a key and reads the keys anew as their file changes.
"""
