"""Checkpoints: from a model's name to its architecture and its weights.

    source -> ModelFiles -> ModelArch + Weights

`source.py` and `hub.py` find the files, `open.py` opens them; engine/arch reads the architecture. `weights.py` loads
tensors by their hub names, from `safetensors_weights.py`, `quantized_weights.py` or `gguf_weights.py`, and accounts for
each; `fused_weights.py`, `stacked_experts.py`, `interleaved_rows.py` and `renamed_weights.py` adapt other names and
layouts to those that the decoder takes. `weight_formats.py` and `gguf_group_quantized.py` read quantized matrices
(`matrix.py`). `weight_cache.py` keeps what kernels packed in files (`packed_file.py`) that the node's replicas map.
`gguf_file.py` reads a .gguf file's metadata and tensor index, for tokenizers too.
"""
