"""POST /v1/chat/completions: a conversation in, the next message out.

routes         the way of one request, top to bottom
conversation   the wire's messages as a chat template reads them
functions      what was there before tools, in their words
token_prompt   the prompt of a client that has rendered its conversation itself
request        to the engine's request: prompt, tools, grammar. Pure, and where most faults of clients end
form           deltas as events, or as one document
"""
