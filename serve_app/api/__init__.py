"""The wire: models of request bodies, shapes of responses, validation, the OpenAPI document. Imported at the edge only.

Reading order:

    fields            what all models of bodies share: null equals absent, unknown fields are ignored
    requests          the bodies of every POST; constraint_fields (structured output) and reasoning_fields are parts
    validation        checks a parsed body against one of them, and says what is wrong in the client's words
    responses         what clients get, as typed dicts that renderers fill
    openapi           the document at /openapi.json

Promises: knows no model, no text; who imports it is an adapter, a renderer, a route or the request parser. Tests:
tests/serve_app/api, and tests/serve_app/test_openapi_fuzz.py compares real answers with the document.
"""
