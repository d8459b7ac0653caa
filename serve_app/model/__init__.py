"""Text models: tokenizer, chat template and formats of a served model, loaded once at the start.

Reading order:

    text_model         tokenizer, chat template, formats and sampling defaults of one model
    gguf_tokenizer     builds a .gguf file's tokenizer; pretokenizers split text before merging
    inner_text         the same tokenizer for text that follows other text
    template           renders a conversation; messages are its input, role_order what strict templates take
    registry           the served models, by name and alias

Promises: no weights are read here, and no torch is loaded. Tests: tests/serve_app/model.
"""
