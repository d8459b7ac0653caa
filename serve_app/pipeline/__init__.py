"""The pipeline of every route that generates, from the socket to the response.

Reading order:

    parser          request parser: body, key, model; then preparation, inline or in a worker process
    preparation     runs an adapter's preparation in a worker process with limits of time and memory
    answer          the one pipeline: grammar, result cache, engine, observers, renderer
    renderer        the protocol of an API's renderer
    responses       runs the request: streams events, or sends one document
    coalescing      stream_interval: fewer and larger events
    auth, admission authentication by API key, and the tenants' limits

Promises: no response byte before the engine has accepted; a disconnected client's request is aborted; independent of
the API. Tests: tests/serve_app/pipeline, tests/serve_app/tenants/test_over_http.py.
"""
