"""Generation: from the engine's chunks to deltas, whichever API asked.

Reading order:

    choice          the tokens of one choice to text: detokenized, stopped, parsed
    output_parser   reasoning, tool calls, and the rest is content
    output          request output: all choices of a request, with its usage; batch: of several answered together
    observer        the one hook for streams: metrics, result cache and admission control look at each delta

Promises: deltas joined are the same however the engine cuts its chunks; each choice ends with exactly one finish
reason; observers change nothing. Tests: tests/serve_app/generation, tests/serve_app/test_every_request_ends.py.
"""
