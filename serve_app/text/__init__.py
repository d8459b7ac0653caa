"""Text: token ids to bytes to text. Everything here is incremental: the joined output is the same for any split.

Reading order:

    vocabulary         the bytes of each token id
    detokenizer        incremental detokenizer: a codepoint is complete with its last byte
    stop_strings       stop-string checker: text that may begin a stop string is held back
    message_delta      a delta of a message: content, reasoning, tool-call deltas
    reasoning_parser   splits reasoning from the answer; markers finds their markers
    json_text          bounded parsing of clients' JSON

Tests: tests/serve_app/text, each with texts split at random.
"""
