"""Tensor parallelism: shards, collectives, the rendezvous of ranks, and the driver's commands to its workers.

`tensor_parallel.py` is a value given to constructors (column-parallel and row-parallel shards, all-reduce).
`worker_commands.py` is the rendezvous, the command channel and the heartbeats; `rank_offload.py` the KV offload of
several ranks. `collectives.py` opens the process group: shared memory, or torch.distributed (`torch_group.py`).
"""
