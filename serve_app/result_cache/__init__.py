"""Result cache: repeated deterministic requests are answered without the engine, if the operator enables it.

    cache     results by a hash of everything that an answer depends on; bounded in bytes and age (LRU)
    replay    records the engine's outputs of an answer, and replays them in the engine's place

Promises: no hit across tenants, salts, models or options; incomplete answers are not kept.
Tests: tests/serve_app/result_cache.
"""
