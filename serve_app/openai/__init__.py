"""Shared by the adapters and renderers of /v1/chat/completions and /v1/completions.

    options         wire fields -> GenerationOptions
    output_format   response_format, structured_outputs, guided_* and peers' fields -> StructuredOutput
    events          common parts of all events and documents: head, usage, fingerprint, end
    logprobs        selection and shape of logprobs

Promises: writing an event only joins bytes. Tests: tests/serve_app/openai, and the routes' own test_wire.py.
"""
