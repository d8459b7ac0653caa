"""The text layer: OpenAI's JSON in, server-sent events out. No torch, no Ray.

One request walks through these packages, down to the engine and back:

    transport      HTTP itself: bodies, errors, SSE, compression, disconnects
    api            wire models of requests, shapes of responses, validation
    pipeline       request parser, and the one pipeline of every route that generates
    chat           /v1/chat/completions: adapter (wire model -> Conversation) and renderer (deltas -> bytes)
    completion     /v1/completions: the same for texts and token ids; openai is what the two share
    request        the neutral request that an adapter makes: knows no API
    preparation    neutral request -> the engine's GenerateRequest: template, tokens, grammar, sampling
    tools          tool use: which tools may be called, how calls are written (grammar) and read (tool-call parsers)
    grammar        structured output: from a format to a grammar, and the check of the finished document
    model          tokenizer, chat template and formats of a served model; the registry of models
    text           incremental detokenizer, stop-string checker, reasoning parser, message deltas
    generation     the engine's chunks -> deltas, and the hook through which streams are observed
    metrics, result_cache, tenants    observers of streams: Prometheus, replay, admission control
    workers        processes for work whose cost a client chooses
    server         every other route: models, tokens, health, the chat page

Promises: whatever the client can get wrong is a 4xx that names the field, before the first byte. One state turns tokens
into deltas, for streams and for whole answers, so that a stream joined is the whole answer. A new API needs an
adapter, a renderer and its errors; nothing below them changes.

The way of one streamed token: engine -> generation/output.py -> choice.py -> text/detokenizer.py -> stop_strings.py
-> output_parser.py (reasoning, tool calls) -> observers -> pipeline/responses.py -> chat/renderer.py
-> openai/events.py -> transport/connection.py -> the socket.

Imports between packages go one way; the table in tests/test_architecture.py holds the order. `transport.errors` is the
one table from errors to HTTP. `app` puts the packages together, `main` is the composition root. Tests mirror the
packages (tests/serve_app); those beside them ask all routes: every request ends, every fault names its field, hostile
bodies.
"""
