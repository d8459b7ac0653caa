"""The model: from an architecture and its weights to logits.

    ModelArch + Weights -> Decoder -> logits of the sampled rows

`decoder.py` is the one model for every architecture, of `attention.py`, `feed_forward.py`, `norms.py` and `linears.py`.
"""
