"""What the adapters and renderers of OpenAI's two generating routes share.

    options         wire fields -> GenerationOptions
    output_format   response_format, structured_outputs, guided_* and peers' fields -> StructuredOutput
    events          what all events and documents have in common: head, usage, fingerprint, end
    logprobs        which log probabilities are sent, and their shapes

Promises: an event costs no more than joining bytes. Tests: tests/serve_app/openai, and the routes' own test_wire.py.
"""
