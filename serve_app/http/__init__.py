"""The socket's side of every request, and of every answer that is generated.

In, each a step of its own:

    auth, request_id, session_id   whose request it is
    head_requests                  HEAD is GET without the body
    body                           bounded, strict, off the event loop if large
    intake                         all of the first half of a POST: body, fields, model, preparation

Out:

    answer         runs the request, streams it or gathers it; answer_head is what is the same in every piece
    sse, pacing    events, written fast, and fewer of them for those who ask
    connection     is the client still there, and does it read?
    compression    documents whole, streams event by event
    result_cache   deterministic requests that come again, where the operator wants it
    metrics        what has been answered, in numbers for Prometheus
    errors         the one table from errors to HTTP
    documents      what the OpenAPI document says of routes that read their body themselves
"""
