"""Tensor parallelism: what ranks share out, how they find each other, and the commands of the driver to its workers.

`tensor_parallel.py` is a value given to constructors (column-parallel and row-parallel shards, all-reduce).
`worker_commands.py` is the rendezvous, the command channel and the heartbeats; `rank_offload.py` the KV offload of
several ranks. `torch_group.py` makes collectives of torch.distributed where ranks share no memory.
"""
