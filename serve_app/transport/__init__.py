"""HTTP transport: from the socket to a parsed body, and from bytes back to the socket.

Reading order, in:

    protocol_versions, head_requests, options_requests   HTTP/1.0 and 1.1, HEAD, OPTIONS
    request_id, session_id             ids from headers or body
    body                               bounded, strict JSON, decompressed off the event loop

Out:

    connection     disconnects, backpressure of slow readers, keep-alive
    sse            server-sent events
    compression    of documents as a whole, of streams event by event
    errors         the one table from errors to HTTP

Promises: independent of what a request contains. No body is larger, deeper or longer than the limits; a client that
disconnects or does not read ends its request. Tests: tests/serve_app/transport.
"""
