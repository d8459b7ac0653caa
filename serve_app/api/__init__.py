"""Wire models of request bodies, response shapes, validation, the OpenAPI document. Imported at the edge only.

Reading order:

    fields            the base of all wire models: null equals absent, unknown fields are ignored
    requests          the bodies of every POST; constraint_fields (structured output) and reasoning_fields are parts
    validation        validates a parsed body; errors name the client's field
    responses         response shapes, as typed dicts that renderers fill
    openapi           the document at /openapi.json

Imported by adapters, renderers, routes and the request parser only. Tests: tests/serve_app/api, and
tests/serve_app/test_openapi_fuzz.py, which compares real answers with the document.
"""
