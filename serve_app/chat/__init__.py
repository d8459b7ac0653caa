"""POST /v1/chat/completions: a conversation in, the next message out.

Reading order:

    routes         the routes, which call the pipeline
    adapter        ChatRequest -> Conversation -> PreparedChat
    messages, tools, token_prompt    parts of the adapter; functions: errors in terms of the older functions API
    renderer       deltas -> events, or one document

Promises: works with the official SDK in both directions. Tests: tests/serve_app/chat.
"""
