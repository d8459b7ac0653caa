"""The text floor: OpenAI JSON in, server-sent events out. No torch, no Ray.

One request walks through these rooms, in this order:

    chat_routes     reads the body (body, validation, protocol), finds the model (registry)
    chat            renders the template (conversation, template), tokenizes (text_model), fills the engine's
                    request (sampling). Pure; every fault of the client ends here, before the first byte
    answer          runs the request: waits for the engine's first output, streams or gathers, and aborts when the
                    client leaves (connection)
    reply, choice   tokens to text: detokenizer, then stop strings. One state for streamed and whole answers
    chat_form       the same deltas as events or as one document

`errors` is the one table from errors to HTTP. `app` puts it all together.
"""
