"""The text floor: OpenAI JSON in, server-sent events out. No torch, no Ray.

One request walks through these rooms, down to the engine and back:

    http         the socket's side. intake reads the body, has it checked, and finds the model
    api          what clients send and get, as typed fields, and whether they may
    chat         one conversation: to a prompt, to what the answer may be, to the engine's request; and its answer's
                 deltas to events or to a document. completion does the same for plain text
    tools        which tools may be called, how calls are written, and how they are read
    grammar      from a wish about the answer's form to a grammar, and the check of the finished document
    generation   what all requests for an answer share: down to the engine's request, and back from its tokens to deltas
    model        what the text floor knows of a model: tokenizer, template, formats
    text         pieces of text: token ids to bytes to text, stop strings, markers, thinking
    server       every other route: models, tokens, health, the chat page

Whatever the client can get wrong ends before `generation` hands the request on: before the first byte. One state turns
tokens into deltas, for streams and for whole answers, so that a stream joined is the whole answer.

Imports between rooms go one way, towards the beginning of this line, and a test checks it:

    api, text < grammar < tools < model < generation < http < chat, completion < server < app < main

`http.errors` is the one table from errors to HTTP. `app` puts the rooms together, `main` is the composition root.
"""
