"""State that outlives a request: one small store behind one interface, bounded in bytes and age for each API key.

    store          the interface (get, put, delete), and the store in this process's memory
    redis_store    the store in Redis, which all ingresses share and which outlives them

A store knows owners (tenants), keys and bytes; what the bytes mean is their writer's matter (serve_app/responses,
serve_app/resumption). Each kind of state has a store of its own, with its own limits.
A store that replicas keep, two copies by rendezvous hashing, fits the same interface. Tests: tests/serve_app/state.
"""
