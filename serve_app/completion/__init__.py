"""POST /v1/completions: a text in, how it goes on out.

Reading order:

    routes     what is asked of the pipeline
    adapter    CompletionRequest -> TextPrompts, and what is prepared of it
    echo       prompts that come back, with where each token stands in them
    renderer   deltas as events, or as one document

Tests: tests/serve_app/completion.
"""
