"""What all requests for an answer share, whichever route takes them.

Down, from a prompt's tokens and the client's fields to the engine's request:

    request          puts it together: sampling, prompt (cut to what is wanted, measured against the context)
    grammar_checks   compiles the request's grammar, before an engine is asked to follow it

And back, from the engine's chunks to deltas:

    choice           the tokens of one choice to text: detokenized, stopped, sorted by answer_parser
    reply, replies   all choices of a request, or of several that are answered together
    logprobs         which log probabilities are told
"""
