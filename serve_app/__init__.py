"""The text layer: OpenAI's and Anthropic's JSON in, server-sent events out. No torch, no Ray.

A request passes these packages on its way to the engine and back:

    transport      HTTP itself: bodies, errors, SSE, compression, disconnects
    api            wire models of requests, shapes of responses, validation
    pipeline       request parser, and the one pipeline of every route that generates
    chat           /v1/chat/completions: adapter (wire model -> Conversation) and renderer (deltas -> bytes)
    completion     /v1/completions: the same for texts and token ids; openai is what the two share
    responses      /v1/responses: the same for lists of items
    messages       /v1/messages, Anthropic's API: adapter, renderer, errors
    request        the neutral request, independent of the API
    preparation    neutral request -> the engine's GenerateRequest: template, tokens, grammar, sampling
    tools          tool use: tool choice, grammars of tool calls, tool-call parsers
    grammar        structured output: JSON schema, regex, structural tag -> grammar; validation of the finished document
    model          tokenizer, chat template and formats of a served model; the registry of models
    text           incremental detokenizer, stop-string checker, reasoning parser, message deltas
    generation     the engine's outputs -> deltas, and the hook for observers of streams
    state          the store of what outlives a request: in memory or in Redis
    resumption     resumable streams: event ids, and the records by which any ingress continues an answer
    logs, tracing  what is written about requests: access log, usage ledger, OpenTelemetry traces
    metrics, result_cache, tenants    observers of streams: Prometheus, replay, admission control
    workers        worker processes with limits, for work whose cost a client chooses
    server         every other route: models, tokens, health, the chat page

Promises: every error of a client is a 4xx that names the field, before the first byte. Streams and whole answers are
made of the same deltas, so a joined stream equals the whole answer. A new API needs an adapter, a renderer and its
errors; nothing below them changes.

The way of one streamed token: engine -> generation/output.py -> choice.py -> text/detokenizer.py -> stop_strings.py
-> output_parser.py (reasoning, tool calls) -> observers -> pipeline/responses.py -> chat/renderer.py
-> openai/events.py -> transport/connection.py -> the socket.

Imports between packages go one way; tests/test_architecture.py checks their order. `transport.errors` is the one table
from errors to HTTP. `app` builds the application, `main` is the composition root. Tests mirror the packages
(tests/serve_app); those beside them call all routes: every request ends, every error names its field, hostile bodies.
"""
