"""State that outlives a request: one small store behind one interface, bounded in bytes and age for each API key.

    store          the interface (get, put, replace, delete), and the store in this process's memory
    redis_store    the store in Redis, which all ingresses share and which outlives them

A store knows owners (tenants), keys and bytes; what the bytes mean is their writer's matter (serve_app/responses,
serve_app/resumption). Each kind of state has a store of its own, with its own limits.
What replicas keep, two copies by rendezvous hashing (cluster/replica_store.py), fits the same interface and is the
default on a cluster. Tests: tests/serve_app/state.
"""
