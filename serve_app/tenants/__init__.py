"""Tenants: who asks, and how much of the server is theirs.

    token_bucket   limits a rate
    tenant         the owner of one API key: its limits, what it has in flight
    cache_salt     keeps their prefix caches apart
    key_store      finds the tenant of a key, and reads the keys anew as their file changes

Promises: keys are held as hashes only; nobody overtakes others by asking more often. Tests: tests/serve_app/tenants.
"""
