"""The text floor: OpenAI JSON in, server-sent events out. No torch, no Ray.

One request walks through these rooms, in this order:

    chat_routes     the route. intake reads the body (body, validation), checks it against the wire models (protocol)
                    and finds the model (registry)
    chat            renders the template (conversation, tools, tool_prompt, template), tokenizes (text_model), makes
                    the grammar (constraint, tool_grammar) and the engine's request (generation, sampling, limits).
                    Pure. With grammar_checks every fault of the client ends here, before the first byte
    answer          runs the request: waits for the engine's first output, streams or gathers, and aborts when the
                    client leaves (connection)
    reply, choice   tokens to text: detokenizer, stops, then answer_parser (thinking, tool_parser). One state for
                    streamed and whole answers, so that a stream joined is the whole answer
    chat_form       the same deltas as events (sse) or as one document. Completions have completion_form, and echo for
                    the prompts that come back

Where the operator wants it, deterministic requests that come again are answered from result_cache instead.

A model's text side is read once: text_model, from a folder or a .gguf file (gguf_tokenizer, pretokenizers), with the
bytes of every token (vocabulary). How models write tool calls is said once for parser and grammar: tool_formats.
Arguments that come one by one instead of as JSON have field_calls (reading) and field_grammar; gpt-oss's channels have
harmony and harmony_grammar.
`errors` is the one table from errors to HTTP. `app` puts it all together, `main` is the composition root.
"""
