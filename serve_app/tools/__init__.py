"""Tool calls: which may be made, how models write them, how they are read.

Reading order:

    tool_use               which tools a request offers and which it allows (tool_choice); type_names and
                           additional_properties make their schemas what they mean
    tool_call_format       how a family of models writes calls: parser and grammar are both made from it
    formats                all families; json_formats and field_formats are their entries
    tool_prompt            presents tools where a chat template knows none
    tool_call_parser       finds calls while the answer is written. json_call reads calls that are objects, field_calls
                           arguments that come one by one, argument_values makes JSON of these
    tool_call_grammar      holds the answer to calls that parse; field_grammar does for arguments that come one by one
    harmony_parser         reads gpt-oss's channels, which hold reasoning and content too; harmony_grammar is theirs

A new family is an entry in json_formats or field_formats; the tests run every entry through parser and grammar
(tests/serve_app/tools). Promises: what the grammar lets a model write, the parser reads as calls, however it is cut.
"""
