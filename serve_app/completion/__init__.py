"""POST /v1/completions: a text or token ids in, the continuation out.

Reading order:

    routes     the route, which calls the pipeline
    adapter    CompletionRequest -> TextPrompts -> PreparedCompletion
    echo       echoed prompts, with the text offset of each token
    renderer   deltas -> events, or one document

Tests: tests/serve_app/completion.
"""
