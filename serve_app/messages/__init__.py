"""POST /v1/messages: Anthropic's Messages API.

Reading order:

    routes         the routes, which call the pipeline
    adapter        MessagesRequest -> Conversation -> PreparedMessage; the count of a prompt's tokens
    requests       the wire model of the body
    blocks         messages of content blocks -> neutral messages, with the reference's checks of tool results
    renderer       segments -> events, or one document
    shapes         shapes of answers
    errors         errors in Anthropic's shape
    models         /v1/models for Anthropic's clients

Promises: works with the official SDK in both directions; thinking blocks come back as the model wrote them; what a
client changes in every request (billing lines) does not spoil prefix caching. Tests: tests/serve_app/messages.
"""
