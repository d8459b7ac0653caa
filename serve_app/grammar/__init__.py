"""Structured output: compiles the format of a request (JSON schema, regex, structural tag) to a grammar for llguidance.

Reading order:

constraint       the output format of a request, and its grammar
well_formed      validates a schema against the meta-schema, with the path of its first error
schema_upgrade   rewrites schemas of older drafts as 2020-12
unsupported_keywords   finds keywords that no grammar supports; with strict: false they are dropped
json_grammar     JSON schema -> grammar, and its error messages
json_rules       objects, arrays, alternatives and constants as rules of llguidance's Lark dialect
sequences        rules of array items and object members, and of objects with minProperties and maxProperties
rule_faults      errors of schemas that have no grammar
all_of           merges several schemas that apply at once
number_regex     ranges of numbers as regular expressions, in exact decimals
number_schema    number keywords, exactly; and which of them llguidance's JSON compiler represents in doubles
exact_numbers    numbers with all their written digits
ecma_regex       translates ECMA-262 and other regex dialects to Rust's
pattern_properties   patternProperties that match no other names than `properties` lists
expansion, finite    schemas that are too large when expanded, or that no finite document satisfies
structural_tag   documents between markers
lark             helpers for llguidance's Lark dialect
schema_check     validates a finished document, in exact decimals, at a bounded cost
schema_walk, references, keywords   shared by all of these

Numbers are exact: nothing here calculates with doubles. Where only llguidance's JSON compiler supports a schema
(several patternProperties, allOf that cannot be merged, references to $anchor), numbers that are no doubles are
refused. By default an integer has at most 19 digits (those of an int64) and a number 17 before the point and 17 after
it; a schema whose bounds need more gets more. multipleOf is matched by the last digits, by a list, or by llguidance's
counter: a step of more than four digits that does not divide a power of ten is refused unless few of its multiples are
within the bounds. Look-ahead is supported at the beginning of a pattern, for texts without characters that JSON
escapes; uniqueItems where an enum of at most seven values lists the items. Tests: tests/serve_app/grammar generate
random answers under random schemas, and validate them with jsonschema.
"""
