"""Worker processes for work whose cost a client chooses: limited in CPU time and memory, and killed beyond.

Independent of the work. Reading order:

    frames       messages over a socket
    values       results: only structs and numbers of this project are unpickled
    forkserver   the process that workers are forked from, within milliseconds and with everything loaded
    pool         runs tasks in workers

Tests: tests/serve_app/workers, tests/serve_app/hostile.
"""
