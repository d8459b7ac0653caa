"""Result cache: deterministic requests that come again are answered without the engine, where the operator wants it.

    cache     what is known, by the hash of all that an answer depends on; bounded in bytes and age (LRU)
    replay    records the engine's chunks of an answer, and replays them in the engine's place

Promises: nobody gets the answer of another tenant, salt, model or option; an answer that was cut off is not kept.
Tests: tests/serve_app/result_cache.
"""
