"""The model: from an architecture and its weights to logits.

    ModelArch + Weights -> Decoder -> logits of the sampled rows

`decoder.py` is the one loop over layers for every architecture. A layer's mixer is `attention.py`,
`latent_attention.py` (MLA) with `token_indexer.py` (sparse attention), `gated_delta_net.py`, `kimi_delta_attention.py`,
`mamba.py`, `lightning_attention.py` or `short_conv.py`; its feed-forward `feed_forward.py` with `router.py`; around
them are `decoder_layer.py`, `residual_stream.py`, `per_layer_embedding.py`, `altup.py` with `laurel.py` (Gemma 3n),
`norms.py` and `linears.py`. `forward_batch.py` has a step's tensors, `layer_weights.py` what a layer is built from.
"""
