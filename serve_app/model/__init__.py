"""What the text floor knows of a model: read once, at the start.

text_model       all of it together; from a folder with a tokenizer, or from a .gguf file
gguf_tokenizer   the tokenizer that a .gguf file describes; pretokenizers is how it cuts text before merging
template         renders a conversation as the model reads it
registry         which models are served, under which names, how long their contexts are
"""
