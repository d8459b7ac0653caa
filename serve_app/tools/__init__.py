"""Tool calls: which may be made, how models write them, how they are read.

    use          which tools a request offers and which it allows; closed keeps arguments to those that are declared
    formats      how each family of models writes calls, said once in the words of format: parser and grammar are both
                 made from it. json_formats and field_formats are the families
    prompt       presents tools where a chat template knows none
    parser       finds calls while the answer is written. json_call reads calls that are objects, field_calls arguments
                 that come one by one, argument_values makes JSON of these
    grammar      holds the answer to calls that parse; field_grammar does for arguments that come one by one
    harmony      reads gpt-oss's channels, which hold thinking and content too; harmony_grammar holds it to them

A new family is an entry in one of the two; the tests run every entry through parser and grammar.
"""
