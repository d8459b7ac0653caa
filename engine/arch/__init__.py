"""Model architectures as data: from config.json or a GGUF file's metadata to a ModelArch. No torch.

    config.json | GGUF metadata -> a family's function -> ModelArch(layers=(LayerSpec, ...))

`print(arch.layers[0])` says what a layer of the model is. In reading order: `layer_spec.py` with `mixer_spec.py` and
`feed_forward_spec.py`, `model_arch.py`, `rope.py`, `rope_config.py`, `hub.py` and `gguf.py` (find the family),
`hub_config.py` and `gguf_config.py` (what most families have in common), and `families/`: everything odd about a family
stands there, in one small function, and nowhere else. Tested against transformers with tiny random weights
(tests/engine/model).
"""
