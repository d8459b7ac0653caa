"""Processes for work whose cost a client chooses: limited in CPU time and memory, and killed where it takes more.

Knows nothing of what the work is. In reading order: frames.py is what goes over a socket, forkserver.py the process
that workers are forked from, in milliseconds and with all that was loaded before, pool.py who asks them.
"""
