"""Model families: for each of config.json's model_type or GGUF architecture, one function to a ModelArch.

A module has the families of one maker: `HUB` for the Hugging Face Hub, `GGUF` for GGUF files.
"""
