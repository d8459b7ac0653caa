"""Every route that generates nothing: what is served, and how it is.

    model_routes   /v1/models
    token_routes   /tokenize, /detokenize
    state_routes   /health, /ping, /version, /load, /status, /metrics; open_requests counts what is open
    page_routes    the chat page at /, which is page.html

Tests: tests/serve_app/server.
"""
