"""What an answer must look like, from the client's words to a grammar for llguidance.

constraint       the one wish of a request (response_format, structured_outputs, guided_*), and the check of the
                 finished document
json_texts       JSON that satisfies a schema
holdable         what of a schema a grammar can hold
pattern_properties   patterns of names that no other property can have
structural_tag   documents between markers
lark             pieces of llguidance's grammar language
schema_check     a document against a schema, at a cost that the client cannot choose
"""
