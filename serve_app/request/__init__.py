"""The neutral request: what a client wants, in values that know no API. Knows no model, no text, no HTTP.

Reading order:

    options          what every request may say: sampling, lengths, log probabilities, delivery
    output_format    structured output: JSON schema, regex, choice, grammar or structural tag, each with the field
                     that asked for it
    conversation     messages, tools and tool choice, chat template, reasoning: a `Conversation`
    text_prompts     texts or token ids to be continued: `TextPrompts`
    limits           what the operator bounds in any request

Each API's adapter (chat/adapter.py, completion/adapter.py) makes these of its wire model. Everything below an adapter
takes these or parts of them, so that one more API is an adapter, a renderer and its errors.

Promises: every value is a frozen struct; names of fields in errors are the client's (`field`, `prompt_field`), since
the values carry them. Tests: those of the adapters (tests/serve_app/chat/test_adapter.py, tests/serve_app/openai).
"""
