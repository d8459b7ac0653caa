"""Generation: from the engine's outputs to deltas, the same for every API.

Reading order:

    choice          one choice: detokenizer, stop strings, output parser
    output_parser   splits text into reasoning, tool calls and content
    segments        one choice as a list of reasoning, text and calls in their order, for APIs that have blocks or items
    output          request output: all choices of a request, with its usage; batch: of several requests in one answer
    observer        the hook for observers of streams: metrics, result cache, admission control

Promises: joined deltas do not depend on how the engine splits its outputs; each choice ends with exactly one finish
reason; observers change nothing. Tests: tests/serve_app/generation, tests/serve_app/test_every_request_ends.py.
"""
