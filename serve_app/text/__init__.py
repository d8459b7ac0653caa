"""Pieces of text, whatever they belong to. Everything here takes text in any pieces and gives the same joined.

vocabulary    the bytes of each token id
detokenizer   token ids to text: a codepoint comes out with its last byte
stops         the first stop string, held back until it is known to be none
markers       the same question for the markers of parsers
thinking      a model's thinking, and where it ends
said          what a piece of an answer says, sorted: content, thinking, calls
"""
