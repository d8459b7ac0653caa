"""The pipeline of every route that generates, from the socket to the response.

Reading order:

    parser          request parser: body, key, model; then preparation, inline or in a worker process
    preparation     runs an adapter's preparation in a worker process with limits of time and memory
    answer          the one pipeline: grammar, result cache, engine, observers, renderer
    renderer        the protocol of an API's renderer
    responses       runs the request: streams events, or sends one document
    stream_run      the run of a resumable stream, which outlives its client's connection
    resumable       the runs of this ingress, and the responses that follow them
    coalescing      stream_interval: fewer and larger events
    auth, admission authentication by API key, and the tenants' limits

Promises: no response byte before the engine has accepted; a disconnected client's request is aborted, at
once or, for a resumable stream, after a while; independent of the API. Tests: tests/serve_app/pipeline,
tests/serve_app/resumption, tests/serve_app/tenants/test_over_http.py.
"""
