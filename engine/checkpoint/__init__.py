"""Checkpoints: from a model's name to its architecture and its weights.

    source -> ModelFiles -> ModelArch + Weights

`source.py` and `hub.py` find the files. `arch.py` and `rope.py` say what the model is, in flags and sizes, as read from
config.json (`hub_families.py` has what a family is) or from a .gguf file (`gguf_arch.py`, `gguf_families.py`),
positions by `rope_config.py`. `weights.py` hands out its tensors by their hub names, from `safetensors_weights.py`,
`quantized_weights.py` or `gguf_weights.py`, and accounts for each; `fused_weights.py`, `stacked_experts.py`,
`interleaved_rows.py` and `renamed_weights.py` show what is laid out otherwise as the decoder takes it.
`weight_formats.py` and `gguf_group_quantized.py` know how a `matrix.py` is quantized. `gguf_file.py` reads a .gguf
file's index, for tokenizers too.
"""
