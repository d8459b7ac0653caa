"""Models as the text layer knows them: read once, at the start.

Reading order:

    text_model         tokenizer, chat template, formats and sampling defaults of one model
    gguf_tokenizer     the tokenizer that a .gguf file describes; pretokenizers split text before merging
    template           renders a conversation; messages are what it reads
    registry           which models are served, under which names

Promises: no weights are read here, and no torch is loaded. Tests: tests/serve_app/model.
"""
