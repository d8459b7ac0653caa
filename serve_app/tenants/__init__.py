"""Tenants: owners of API keys, their rate limits and their isolation.

    token_bucket   limits a rate
    tenant         the owner of one API key: its limits, its requests in flight
    cache_salt     isolates the tenants' prefix caches
    sealing        encrypts reasoning that clients keep
    key_store      finds the tenant of a key, and reloads the keys when their file changes

Promises: keys are kept as hashes only; more requests give no tenant a larger share. Tests: tests/serve_app/tenants.
"""
