"""Preparation: from the neutral request to the engine's GenerateRequest. Pure; finds most errors of clients.

Reading order:

    conversation        chat template, tokens, tools, grammar of a Conversation
    text_prompts        the same for texts and token ids
    generate_request    builds the GenerateRequest, for both
    prompt, sampling    truncation and the context's limits; sampling parameters with the model's defaults
    grammar_validator   compiles a request's grammar in a worker process (grammar_worker)

Promises: every error is a RequestError that names the client's field; only the validator waits. Runs in worker
processes for all but small plain requests (serve_app/pipeline/preparation.py), so it returns structs only. Tests:
tests/serve_app/preparation, tests/serve_app/chat/test_request.py, tests/serve_app/generation.
"""
