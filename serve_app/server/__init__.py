"""The routes that generate nothing: models, tokenization, health and metrics, the chat page.

    model_routes   /v1/models
    token_routes   /tokenize, /detokenize
    stream_routes  /v1/streams/{id}, which ends a resumable stream
    state_routes   /health, /ping, /version, /load, /metrics; open_requests counts open requests
    status_routes  /status: JSON, and the status page, of the files in status_page/
    request_logs   builds what is written about requests (serve_app/logs, serve_app/tracing)
    page_routes    the chat page at /, of the files in chat_page/
    page_files     serves the files of both, whose main.mjs joins the others

Tests: tests/serve_app/server.
"""
