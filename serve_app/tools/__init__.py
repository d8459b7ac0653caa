"""Tool calls: tool choice, formats of model families, tool-call parsers and grammars.

Reading order:

    tool_use               the tools of a request, tool_choice, and their schemas, normalized by type_names and
                           additional_properties
    tool_call_format       the format of a family's calls, from which parser and grammar are made
    formats                all formats; their entries are in json_formats and field_formats
    tool_prompt            describes tools in the system message where a chat template has no tools
    tool_call_parser       finds calls in streamed text. json_call parses calls that are objects, field_calls arguments
                           that are written one by one, which argument_values and quoted_values turn into JSON
    tool_call_grammar      constrains the answer to calls that parse; field_grammar: arguments written one by one
    harmony_parser         parses gpt-oss's channels, reasoning and content included; harmony_grammar constrains them

A new family is an entry in json_formats or field_formats; the tests run every entry through parser and grammar
(tests/serve_app/tools). Promises: every call that the grammar allows is parsed as a call, for any split of the text.
"""
