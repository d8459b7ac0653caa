"""Worker processes for work whose cost a client chooses: limited in CPU time and memory, killed where it takes more.

Knows nothing of what the work is. Reading order:

    frames       what goes over a socket
    values       what comes back: structs and numbers of this project, whatever a worker may say
    forkserver   the process that workers are forked from, in milliseconds and with all that was loaded before
    pool         who asks them

Tests: tests/serve_app/workers, tests/serve_app/hostile.
"""
