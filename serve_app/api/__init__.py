"""What clients send and get, as typed fields. Knows no model, no text, no HTTP.

fields              what all models of bodies share: null equals absent, unknown fields are ignored
requests            the bodies of every POST; constraint_fields are those that say what an answer must look like
validation          checks a parsed body against one of them, and says what is wrong in the client's words
limits              what the operator bounds in a request
answers             what clients get, for the OpenAPI document
"""
