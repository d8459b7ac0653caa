"""Preparation: from the neutral request to the engine's GenerateRequest. Pure, and where most faults of clients end.

Reading order:

    conversation        chat template, tokens, tools, grammar of a Conversation
    text_prompts        the same of texts and token ids
    generate_request    what both share: puts the GenerateRequest together
    prompt, sampling    truncation and the context's limits; sampling parameters with the model's defaults
    grammar_validator   has a request's grammar compiled in a worker process (grammar_worker)

Promises: everything that is wrong is a RequestError that names the client's field; nothing waits but the validator.
Runs in worker processes for all but small plain requests (serve_app/pipeline/preparation.py), so what it returns are
structs alone. Tests: tests/serve_app/preparation, tests/serve_app/chat/test_request.py, tests/serve_app/generation.
"""
