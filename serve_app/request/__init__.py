"""The neutral request: values that are independent of API, model and HTTP.

Reading order:

    options          options of every request: sampling, lengths, logprobs, delivery
    output_format    structured output: JSON schema, regex, choice, grammar or structural tag, each with the client's
                     field
    conversation     messages, tools and tool choice, chat template, reasoning: a `Conversation`
    text_prompts     texts or token ids to be completed: `TextPrompts`
    limits           the operator's limits of any request

Each API's adapter (chat/adapter.py, completion/adapter.py) makes these of its wire model. Everything below an adapter
takes these or parts of them, so that a new API is an adapter, a renderer and its errors.

Promises: every value is a frozen struct; it has the names of the client's fields for error messages (`field`,
`prompt_field`). Tests: those of the adapters (tests/serve_app/chat/test_adapter.py, tests/serve_app/openai).
"""
