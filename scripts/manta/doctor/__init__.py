"""`manta doctor`: checks a machine, a config, a model's files and a running Ray cluster, and says what to do.

command           the subcommand: gathers, checks, prints
finding           what a check returns: ok, warning or fault, what was found, what to do
facts             what is known of a machine, as values; None where it could not be found out

checks            the list of all checks, each a pure function of facts
host_checks       Python, packages, CPU, compiler, GPUs, memory, disk, limits, clock, folders
network_checks    ports that a start needs, and what listens
ray_checks        Ray's environment, its token, HAProxy, the nodes of a cluster
model_checks      the config, the model's files

gather            makes the facts of this machine; the only module that looks at it, with
listeners         TCP listeners and their programs, from /proc
model_files       reads heads and hashes of a model's files, without loading them; hub_cache finds them
nodes             a program of its own that asks each node of a running cluster

A check of what was not found out is ok and says so: a doctor that cannot look has no diagnosis. Nothing is downloaded,
changed or started, but a C compiler, `nvidia-smi`, a torch that counts GPUs, and a task on each node of a cluster.
"""

from scripts.manta.doctor.command import main

__all__ = ["main"]
