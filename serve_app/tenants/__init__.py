"""Who asks, and how much of the server is theirs.

token_bucket.py limits a rate. tenant.py is the owner of one API key: its limits, what it has in flight, the salt of its
prefix cache. key_store.py finds the tenant of a key and reads the keys again when their file changes.
"""
