"""POST /v1/completions: a text in, how it goes on out.

routes    the way of one request, top to bottom
request   to the engine's requests, one for each prompt. Pure
form      deltas as events, or as one document
echo      prompts that come back, with where each token stands in them
"""
