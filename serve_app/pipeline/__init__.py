"""The pipeline of every route that generates, from the socket to the response.

Reading order:

    parser          request parser: body, key, model; then preparation, here or in a worker process
    preparation     the same work in both places, under limits of time and memory in one
    answer          the one pipeline: grammar, result cache, engine, observers, renderer
    renderer        the protocol that an API's renderer fills
    responses       runs the request: streams it, or gathers it
    coalescing      stream_interval: fewer and larger events
    auth, admission who may ask, and how much at once

Promises: no response byte before the engine has accepted; a client that leaves aborts its request; nothing here knows
which API it is. Tests: tests/serve_app/pipeline, tests/serve_app/tenants/test_over_http.py.
"""
