"""POST /v1/chat/completions: a conversation in, the next message out.

Reading order:

    routes         what is asked of the pipeline
    adapter        ChatRequest -> Conversation, and what is prepared of it
    messages, tools, token_prompt    parts of the adapter; functions is for clients from before tools
    renderer       deltas as events, or as one document

Promises: what the official SDK sends is read, what it reads is sent. Tests: tests/serve_app/chat.
"""
