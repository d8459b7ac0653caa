"""`manta top`: a live view of a server in the terminal, from its /status, /load and /metrics.

command           the subcommand: reads, shows, until Ctrl-C
sample            what was read at a moment; fields that a server does not have are None
rates             tokens per second and hit rates, from two samples
frame             a sample as a renderable of rich

Older servers have fewer fields: their columns show a dash. Names of models and replicas are text, never markup or
control characters.
"""

from scripts.manta.top.command import main

__all__ = ["main"]
