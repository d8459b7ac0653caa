"""Text: token ids to bytes to text. Everything here takes text in any pieces and gives the same joined.

Reading order:

    vocabulary         the bytes of each token id
    detokenizer        incremental detokenizer: a codepoint comes out with its last byte
    stop_strings       stop-string checker: text is held back until it is known to be none
    message_delta      a piece of a streamed answer: content, reasoning, tool-call deltas
    reasoning_parser   a model's reasoning, and where it ends; markers finds what marks it
    json_text          JSON from clients, within bounds

Tests: tests/serve_app/text, each with texts cut at random.
"""
