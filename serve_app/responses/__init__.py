"""POST /v1/responses: OpenAI's Responses API.

Reading order:

    routes         the routes, which call the pipeline
    adapter        ResponsesRequest -> Conversation -> PreparedResponse
    requests       the wire model of the body
    items, tools   parts of the adapter: input items -> neutral messages; tools and tool_choice
    truncation     leaves out the oldest turns of a conversation that does not fit
    renderer       segments -> typed events, or one document
    document       the response object and its output items
    errors         errors with this API's names of fields
    kept           responses and conversations that are stored (serve_app/state), and how they are continued
    background     responses that go on without a client; event_response sends their events
    conversation_routes, pages    /v1/conversations, and the pages of lists

Promises: events come in the order that the SDK's accumulator asserts; reasoning items come back as the model wrote
them, sealed where the client asks for it. Tests: tests/serve_app/responses.
"""
