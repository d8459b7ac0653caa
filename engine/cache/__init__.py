"""The KV cache: block pool, prefix cache, the tensors, and KV offload to host memory.

`block_pool.py` counts references and evicts the least recently used free block. `prefix_cache.py` identifies full
blocks by chained block hashes and finds the longest cached prefix. `kv_cache.py` holds the tensors. `kv_offload.py`
keeps blocks in a host tier (`host_tier.py`, set-associative LRU in a file in memory) that the replicas of a node share.
The pool and the prefix cache know ids and hashes alone. Tested with exact ids and eviction order in tests/engine/cache.
"""
