"""Structured output: from the format that a request asks for to a grammar for llguidance.

Reading order:

constraint       the one format that a request asks for, and its grammar
well_formed      is a schema one? With the place of its first mistake
schema_upgrade   schemas of older drafts, as the newest says the same
unsupported_keywords   what of a schema a grammar can hold; the rest is left out where the client does not insist
json_grammar     grammars of JSON texts, and what is wrong with a schema, in words
json_rules       a schema's objects, arrays, alternatives and constants as rules of llguidance's Lark dialect
sequences        items and members, one behind the other, and objects whose members are counted
rule_faults      why a schema cannot be written so
all_of           several schemas that hold at once, as one
number_regex     ranges of numbers as regular expressions, in exact decimals
number_schema    what a schema says of numbers, and what of it llguidance's own JSON compiler carries in doubles
exact_numbers    numbers with the digits that they were written with
ecma_regex       patterns of ECMA-262 and other dialects in the words of Rust's engine
pattern_properties   patterns of names that no other property can have
expansion, finite    schemas that are too large when they are written out, or that no document of any length satisfies
structural_tag   documents between markers
lark             pieces of llguidance's grammar language
schema_check     a value against a schema, in exact decimals, at a cost that the client cannot choose
schema_walk, references, keywords   what all of these go by

Numbers are exact: nothing here calculates with doubles. Where only llguidance's JSON compiler could hold a schema
(several patterns of names, allOf of what cannot be joined, references to $anchor), numbers that doubles do not carry
are refused. By default an integer has at most 19 digits (those of an int64) and a number 17 before the point and 17
after it; a schema whose bounds ask for more gets more. Multiples of a step are told by their last digits, listed, or
counted by llguidance: a step of more than four digits that does not divide a power of ten is refused unless few of its
multiples are within the bounds. Look-ahead is held at the beginning of a pattern, for texts without characters that
JSON escapes; arrays of different items are held where an enum of at most seven values says what the items are.
Tests: tests/serve_app/grammar write random answers under random schemas, and check them with jsonschema.
"""
