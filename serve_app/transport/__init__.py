"""HTTP transport: from the socket to a parsed body, and from bytes back to the socket.

Reading order, in:

    protocol_versions, head_requests   what HTTP asks of a server besides
    request_id, session_id             whose request it is
    body                               bounded, strict JSON, decompressed off the event loop

Out:

    connection     is the client still there, and does it read? Keep-alive, backpressure
    sse            server-sent events
    compression    documents whole, streams event by event
    errors         the one table from errors to HTTP

Promises: nothing here knows what a request is about. No body is larger, deeper or longer than the limits; a client
that leaves or does not read ends its request. Tests: tests/serve_app/transport.
"""
