"""Requests that once held up a server of this kind, or might: by name, each a method, a path, headers and a body.

Most take one thing that a client chooses (a schema, a grammar, a template, a list, a number, a text, a head) to where
its cost is out of proportion to its bytes.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import msgspec
import zstandard

__all__ = ["Hostile", "corpus"]

CHAT, BATCH, COMPLETIONS = "/v1/chat/completions", "/v1/chat/completions/batch", "/v1/completions"
RESPONSES, MESSAGES, CONVERSATIONS = "/v1/responses", "/v1/messages", "/v1/conversations"
JSON: Mapping[str, str] = MappingProxyType({"content-type": "application/json"})
HI = [{"role": "user", "content": "hi"}]
Body = dict[str, Any]


class Hostile(msgspec.Struct, frozen=True):
    path: str
    make: Callable[[], bytes]  # its body, which may be large
    headers: Mapping[str, str] = JSON
    method: str = "POST"


def corpus() -> dict[str, Hostile]:
    found: dict[str, Hostile] = {}
    for part in (
        _schemas,
        _patterns,
        _grammars,
        _templates,
        _bodies,
        _lists,
        _products,
        _texts,
        _histories,
        _tools,
        _batches,
        _completions,
        _responses,
        _messages,
        _conversations,
        _compressed,
        _heads,
        _tokens,
    ):
        for name, hostile in part():
            key = f"{part.__name__[1:]}: {name}"
            assert key not in found
            found[key] = hostile
    return found


def chat(**fields: Any) -> Hostile:
    return of(CHAT, {"messages": HI, **fields})


def of(path: str, body: Any) -> Hostile:
    return Hostile(path, lambda: json.dumps(body).encode())


def form(schema: Any, *, strict: bool = False) -> Hostile:
    return chat(
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": strict}}
    )


def tool(schema: Any, name: str = "f", **fields: Any) -> Body:
    return {"type": "function", "function": {"name": name, "parameters": schema, **fields}}


def doubled(levels: int, last: Any, word: str = "allOf") -> Body:
    ways = {f"d{n}": {word: [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(levels)}
    return {"$ref": "#/$defs/d0", "$defs": {**ways, f"d{levels}": last}}


def nested(word: str, depth: int, last: Any) -> Any:
    for _ in range(depth):
        last = {word: last}
    return last


def properties(count: int, value: Any) -> Body:
    return {"type": "object", "properties": {f"p{n}": value for n in range(count)}}


def _schemas() -> Iterator[tuple[str, Hostile]]:
    for levels, last in ((12, {"type": "string"}), (30, {"const": "x"}), (40, {"type": "null"}), (60, {})):
        for word in ("allOf", "anyOf", "oneOf"):
            yield f"{levels} levels of {word} that double", form(doubled(levels, last, word))
    yield (
        "alternatives that multiply",
        form({"allOf": [{"anyOf": [{"const": f"{a} {n}"} for n in range(9)]} for a in range(12)]}),
    )
    yield (
        "objects whose alternatives multiply",
        form({"allOf": [{"anyOf": [properties(3, {"const": n}) for n in range(6)]} for _ in range(9)]}),
    )
    yield "as text, of brackets", chat(guided_json="[" * 8000)
    yield "as text, nested", chat(guided_json='{"not":' * 300)
    yield "as text, of 8 megabytes", chat(guided_json='{"x":' + "1" * 7_000_000 + "}")
    yield "3,500 ways to be anything", form({"anyOf": [{}] * 3500})
    yield (
        "2,000 objects to choose from",
        form({"anyOf": [{**properties(1, {}), "title": f"t{n}"} for n in range(2000)]}),
    )
    yield "10,000 words", form({"enum": [f"word{n}" for n in range(10_000)]})
    yield "10,000 words of one letter more each", form({"enum": ["a" * n for n in range(600)]})
    yield "3,000 properties", form(properties(3000, {"type": "integer"}))
    yield "2,000 required", form({**properties(2000, {}), "required": [f"p{n}" for n in range(2000)]})
    yield "1,000 pattern properties", form({"patternProperties": {f"^{n}.*": {"type": "null"} for n in range(1000)}})
    yield "not, 60 deep", form(nested("not", 60, {}))
    yield "items, 60 deep", form(nested("items", 60, {}))
    yield "properties, 30 deep", form(nested("properties", 2, nested("additionalProperties", 28, {})))
    yield "a reference to itself", form({"$ref": "#"})
    yield (
        "two references to each other",
        form({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
    )
    yield (
        "a chain of 3,000 references",
        form(
            {
                "$defs": {**{f"a{n}": {"$ref": f"#/$defs/a{n + 1}"} for n in range(3000)}, "a3000": {}},
                "$ref": "#/$defs/a0",
            }
        ),
    )
    yield (
        "a node that needs a node",
        form(
            {
                "$ref": "#/$defs/n",
                "$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "required": ["n"]}},
            }
        ),
    )
    yield "a remote reference", form({"$ref": "http://127.0.0.1:9/x.json"})
    yield "a file", form({"$ref": "file:///etc/passwd"})
    yield "an array of a billion", form({"type": "array", "items": {"type": "null"}, "minItems": 10**9})
    yield "at most a billion", form({"type": "array", "items": {"type": "null"}, "maxItems": 10**9})
    yield "a prefix of 5,000", form({"type": "array", "prefixItems": [{"type": "null"}] * 5000})
    yield (
        "arrays of 999 in arrays of 999",
        form(
            {
                "type": "array",
                "minItems": 999,
                "items": {"type": "array", "minItems": 999, "items": {"type": "array", "minItems": 999}},
            }
        ),
    )
    yield "a string of a billion", form({"type": "string", "minLength": 10**9})
    yield "a string of up to 10 million", form({"type": "string", "maxLength": 10**7})
    yield "all different, of a million", form({"type": "array", "uniqueItems": True, "maxItems": 10**6})
    yield "at least 500 properties", form({"type": "object", "minProperties": 500})
    yield "500 dependencies", form({"dependentRequired": {f"a{n}": [f"a{n + 1}"] for n in range(500)}})
    yield "conditions, 50 deep", form(nested("if", 50, {"const": 1}))
    yield "unevaluated", form({"allOf": [properties(200, {})] * 50, "unevaluatedProperties": False})
    yield "an integer of 5,000 digits", _raw_form(b'{"const":' + b"9" * 5000 + b"}")
    yield "a bound of 5,000 digits", _raw_form(b'{"type":"integer","maximum":1' + b"0" * 5000 + b"}")
    yield "a multiple of 1e-300", _raw_form(b'{"type":"number","multipleOf":1e-300}')
    yield (
        "a multiple of two primes",
        form({"allOf": [{"type": "integer", "multipleOf": 104_729}, {"multipleOf": 1_299_709}]}),
    )
    yield "between 1e300 and 1e308", _raw_form(b'{"type":"number","minimum":1e300,"maximum":1e308}')
    yield (
        "every format",
        form({"allOf": [{"type": "string", "format": f} for f in ("uuid", "date-time", "email", "uri", "ipv6")]}),
    )


def _raw_form(schema: bytes) -> Hostile:
    begins = b'{"messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_schema","json_schema":'
    return Hostile(CHAT, lambda: begins + b'{"name":"x","schema":' + schema + b"}}}")


def _patterns() -> Iterator[tuple[str, Hostile]]:
    for name, pattern in {
        "repeats in repeats": "((((a{1,99}){1,99}){1,99}){1,99}){1,99}",
        "a million": "a{1000000}",
        "a thousand thousands": "(a{1000}){1000}",
        "plus in plus": "(((a+)+)+)+b",
        "alternatives that overlap": "(a|a|aa)*c",
        "the 200th from the end": "(a|b)*a(a|b){200}",
        "20,000 groups": "(" * 20_000 + ")" * 20_000,
        "20,000 groups that nobody closes": "(" * 20_000,
        "all of Unicode": "[\\u0000-\\U0010ffff]{1,500}",
        "letters of all scripts": "(\\p{L}\\p{N}){300}",
        "a look-ahead": "(?=.*a)(?=.*b)(?=.*c).*",
        "a back reference": "(a*)\\1",
        "50,000 alternatives": "|".join(f"w{n}" for n in range(50_000)),
        "nothing": "",
        "what nothing matches": "[^\\s\\S]",
        "white space for ever": "\\s*",
        "a bound that is none": "a{99999999999999999999}",
    }.items():
        yield f"{name}, as guided_regex", chat(guided_regex=pattern)
        yield f"{name}, in a schema", form({"type": "string", "pattern": pattern})


def _grammars() -> Iterator[tuple[str, Hostile]]:
    for name, text in {
        "brackets that nobody closes": "::=" + "[" * 100_000,
        "quotes that nobody closes": "::=" + '"\\' * 50_000,
        "empty lines": "::=" + "\n" * 200_000,
        "blanks before a colon": "start" + " " * 200_000 + "::= x",
        "parentheses": "start: " + "(" * 20_000,
        "a rule that is itself": "start: start",
        "rules in a circle": "start: a\na: b\nb: start",
        "10,000 rules": "start: r0\n" + "\n".join(f"r{n}: r{n + 1} r{n + 1}" for n in range(10_000)) + '\nr10000: "x"',
        "rules that double": "start: r0\n" + "\n".join(f"r{n}: r{n + 1} r{n + 1}" for n in range(60)) + '\nr60: ""',
        "an import": "%import common.WORD\nstart: WORD",
        "a rule of a file": "%import .secret.x\nstart: x",
        "nothing": "start: ",
        "ambiguous": 'start: "a" | start start | start start start',
        "left recursion": 'start: start "a" | "a"',
    }.items():
        yield name, chat(guided_grammar=text)
    yield (
        "a structural tag of 500 triggers",
        chat(
            response_format={
                "type": "structural_tag",
                "structures": [{"begin": f"<f{n}>", "schema": {}, "end": "</f>"} for n in range(500)],
                "triggers": [f"<f{n}" for n in range(500)],
            }
        ),
    )
    yield "5,000 choices", chat(guided_choice=[f"choice {n}" for n in range(5000)])
    yield "a choice of 200,000 letters", chat(guided_choice=["x" * 200_000])


def _templates() -> Iterator[tuple[str, Hostile]]:
    for name, text in {
        "a loop of loops": "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
        "a power": "{{ 9 ** 9 ** 9 }}",
        "a long string": "{{ 'x' * 9999999999 }}",
        "many strings": "{% set x = namespace(s='x') %}{% for a in range(60) %}{% set x.s = x.s ~ x.s %}{% endfor %}",
        "classes": "{{ ().__class__.__base__.__subclasses__() }}",
        "the globals of a function": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "a format": "{{ '{0.__class__}'.format(1) }}",
        "itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "an include": "{% include '/etc/passwd' %}",
        "no end": "{% for",
        "a million blanks": " " * 1_000_000,
        "parentheses": "{{ " + "(" * 5_000 + " }}",
        "a center": "{{ 'x'.center(9999999999) }}",
        "a sort of products": "{{ (messages * 999999) | sort(attribute='role') }}",
        "json of the whole": "{{ (messages * 99999) | tojson }}",
    }.items():
        yield name, chat(chat_template=text)
    yield "arguments that are its own names", chat(chat_template_kwargs={"messages": [], "self": 1})
    yield "100,000 arguments", chat(chat_template_kwargs={f"a{n}": n for n in range(30_000)})


def _bodies() -> Iterator[tuple[str, Hostile]]:
    says = b'{"messages":[{"role":"user","content":"'
    for name, body in {
        "2.7 million objects": lambda: b'{"x":[' + b"{}," * 2_700_000 + b"1]}",
        "600,000 keys": lambda: b"{" + b",".join(b'"%d":1' % n for n in range(600_000)) + b"}",
        "2 million strings": lambda: b'{"x":[' + b'"a",' * 2_000_000 + b"1]}",
        "a string of 8 million": lambda: says + b"a" * 8_000_000 + b'"}]}',
        "8 million blanks": lambda: says + b" " * 8_000_000 + b'"}]}',
        "commas and brackets in a string": lambda: says + b"a,[" * 2_600_000 + b'"}]}',
        "a string without end": lambda: b'{"x":"' + b'\\"' * 4_000_000,
        "escapes": lambda: says + b"\\u0041" * 1_300_000 + b'"}]}',
        "100,000 arrays in each other": lambda: b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "100,000 objects in each other": lambda: b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "a number of 8 million digits": lambda: b'{"temperature":' + b"1" * 8_000_000 + b"}",
        "a number with a large exponent": lambda: b'{"messages":[],"temperature":1e999999999}',
        "a fraction of 8 million digits": lambda: b'{"temperature":0.' + b"3" * 8_000_000 + b"}",
        "an integer of 100,000 digits": lambda: b'{"messages":[],"seed":' + b"7" * 100_000 + b"}",
        "NaN": lambda: b'{"temperature":NaN}',
        "no UTF-8": lambda: b'{"messages":[{"role":"user","content":"\xff\xfe"}]}',
        "half a pair": lambda: b'{"messages":[{"role":"user","content":"\\ud83d"}]}',
        "one key 200,000 times": lambda: b"{" + b",".join([b'"n":1'] * 200_000) + b"}",
        "nothing": lambda: b"",
        "null": lambda: b"null",
        "an array": lambda: b"[]",
        "only blanks": lambda: b" " * 8_000_000,
        "more than is read": lambda: b'{"x":"' + b"a" * 9_000_000 + b'"}',
        "keys that look alike": lambda: json.dumps({f"messages{n}": [] for n in range(30_000)}).encode(),
    }.items():
        yield name, Hostile(CHAT, body)
    yield "a form", Hostile(CHAT, lambda: b"a=1", {"content-type": "application/x-www-form-urlencoded"})
    yield "XML", Hostile(CHAT, lambda: b'<?xml version="1.0"?><!ENTITY b "c">', {"content-type": "text/xml"})


def _lists() -> Iterator[tuple[str, Hostile]]:
    for name, fields in {
        "240,000 empty stop strings": {"stop": [""] * 240_000},
        "16 stop strings of 1,000 letters": {"stop": ["a" * 1000 + str(n) for n in range(16)]},
        "stop strings that are numbers": {"stop": [1] * 200_000},
        "200,000 biases": {"logit_bias": {str(n): 1 for n in range(200_000)}},
        "biases of what is no token": {"logit_bias": {str(n + 10**9): 1 for n in range(1000)}},
        "200,000 stop tokens": {"stop_token_ids": list(range(200_000))},
        "200,000 bad words": {"bad_words": ["x"] * 200_000},
        "1,000 long bad words": {"bad_words": ["x" * 1000] * 1000},
        "200,000 allowed tokens": {"allowed_token_ids": [1] * 200_000},
        "39,000 documents": {"documents": [{}] * 39_000},
        "39,000 tools": {"tools": [{}] * 39_000},
        "100,000 tools that are none": {"tools": [1] * 100_000},
        "39,000 functions": {"functions": [{}] * 39_000},
        "metadata of 200,000": {"metadata": {str(n): "x" for n in range(200_000)}},
        "modalities": {"modalities": ["text"] * 200_000},
        "token ids for logprobs": {"logprobs": True, "logprob_token_ids": list(range(200_000))},
    }.items():
        yield name, chat(**fields)
    yield "39,000 messages", of(CHAT, {"messages": [{}] * 39_000})
    yield "39,000 messages of a word", of(CHAT, {"messages": HI * 39_000})
    yield (
        "200,000 parts",
        of(CHAT, {"messages": [{"role": "user", "content": [1] * 200_000}]}),
    )
    parts = [{"type": "text", "text": "a"}] * 30_000
    yield (
        "30,000 parts of a letter",
        of(CHAT, {"messages": [{"role": "user", "content": parts}]}),
    )


def _products() -> Iterator[tuple[str, Hostile]]:
    most = 2**63 - 1
    yield "n and tokens", chat(n=128, max_tokens=8000)
    yield "n of a billion", chat(n=10**9)
    yield "n, tokens and logprobs", chat(n=128, max_tokens=8000, logprobs=True, top_logprobs=20)
    yield "max_tokens of 2^63", chat(max_tokens=most)
    yield "min_tokens of 2^63", chat(min_tokens=most)
    yield "seed of 2^64", chat(seed=2**64)
    yield "beams of a billion", chat(use_beam_search=True, n=10**9)
    yield "128 beams", chat(use_beam_search=True, n=128, max_tokens=8000)
    yield "prompt_logprobs of all", chat(prompt_logprobs=-1)
    yield "top_k below zero", chat(top_k=-(2**62))
    yield "a thinking budget of 2^63", chat(thinking_token_budget=most)
    yield "a repetition of 2^62", chat(repetition_detection={"max_pattern_size": 2**62, "min_count": 2})
    yield "an interval of 2^62", chat(stream=True, stream_interval=2**62)
    yield "truncate to 2^62", chat(truncate_prompt_tokens=2**62)


def _texts() -> Iterator[tuple[str, Hostile]]:
    def says(text: str, **fields: Any) -> Hostile:
        return chat(messages=[{"role": "user", "content": text}], **fields)

    yield "a megabyte to be cut", says("word " * 200_000, truncate_prompt_tokens=10)
    yield "7 megabytes to be cut", says("word " * 1_400_000, truncate_prompt_tokens=10)
    yield "one word of a megabyte", says("a" * 1_000_000, truncate_prompt_tokens=10)
    yield "digits", says("1" * 1_000_000, truncate_prompt_tokens=10)
    yield "blanks", says(" " * 1_000_000, truncate_prompt_tokens=10)
    yield "line breaks", says("\n" * 1_000_000, truncate_prompt_tokens=10)
    yield "marks that join", says("e" + "\u0301" * 300_000, truncate_prompt_tokens=10)
    yield "markers", says("<|im_start|>" * 80_000, truncate_prompt_tokens=10)
    yield "what is almost a marker", says("<|im_star" * 80_000, truncate_prompt_tokens=10)
    yield "emoji", says("👩‍👩‍👧‍👦" * 30_000, truncate_prompt_tokens=10)
    yield "from right to left", says("\u202e" * 100_000 + "x", truncate_prompt_tokens=10)
    yield "zeros", says("\0" * 300_000, truncate_prompt_tokens=10)
    yield "a name of a megabyte", chat(messages=[{"role": "user", "name": "n" * 1_000_000, "content": "x"}])
    yield "a role of a megabyte", chat(messages=[{"role": "r" * 1_000_000, "content": "x"}])
    yield "a model of a megabyte", chat(model="m" * 1_000_000)
    yield "a salt of a megabyte", chat(cache_salt="s" * 1_000_000)
    yield "a user of a megabyte", chat(user="u" * 1_000_000)
    yield "a request id of a megabyte", chat(request_id="r" * 1_000_000)


def _histories() -> Iterator[tuple[str, Hostile]]:
    def called(arguments: Any, count: int = 1) -> Hostile:
        calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}] * count
        return chat(messages=[*HI, {"role": "assistant", "content": None, "tool_calls": calls}])

    yield "arguments of brackets", called("[" + "[]," * 1_000_000)
    yield "arguments, nested", called("[" * 100_000)
    yield "arguments of numbers", called("[" + "1," * 1_000_000 + "1]")
    yield "arguments of a long number", called('{"a":' + "9" * 1_000_000 + "}")
    yield "3,000 calls", called("{}", 3_000)
    yield "arguments that are no text", called({"a": 1})
    yield (
        "1,000 results of nothing",
        chat(messages=[*HI, *[{"role": "tool", "tool_call_id": "x", "content": ""}] * 1000]),
    )
    yield (
        "an image",
        chat(
            messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/"}}]}]
        ),
    )
    yield (
        "a file of a megabyte",
        chat(messages=[{"role": "user", "content": [{"type": "file", "file": {"file_data": "A" * 1_000_000}}]}]),
    )


def _tools() -> Iterator[tuple[str, Hostile]]:
    plain = properties(3, {"type": "string", "description": "x" * 20})
    yield "256 tools", chat(tools=[tool(plain, f"f{n}") for n in range(256)])
    yield "256 tools, forced", chat(tools=[tool(plain, f"f{n}") for n in range(256)], tool_choice="required")
    yield "references that double", chat(tools=[tool({"type": "object", **doubled(40, {})})])
    yield (
        "references that double, forced",
        chat(tools=[tool({"type": "object", **doubled(25, {"const": 1})})], tool_choice="required"),
    )
    yield (
        "a pattern of repeats",
        chat(
            tools=[
                tool({"type": "object", "properties": {"a": {"type": "string", "pattern": "((a{1,99}){1,99}){1,99}"}}})
            ]
        ),
    )
    yield (
        "200 strict tools",
        chat(tools=[tool(plain, f"f{n}", strict=True) for n in range(200)], tool_choice="required"),
    )
    yield "a name of a megabyte", chat(tools=[tool(plain, "n" * 1_000_000)])
    yield "a description of a megabyte", chat(tools=[tool(plain, description="d" * 1_000_000)])
    yield "one name for all", chat(tools=[tool(plain)] * 256)
    yield "functions as before tools", chat(functions=[{"name": f"f{n}", "parameters": plain} for n in range(256)])


def _batches() -> Iterator[tuple[str, Hostile]]:
    def batch(count: int, **fields: Any) -> Hostile:
        return of(BATCH, {"messages": [HI] * count, **fields})

    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": properties(280, {"type": "string"})}}
    yield "128 with a large schema", batch(128, response_format=schema)
    yield "128 with many tools", batch(128, tools=[tool(properties(3, {}), f"f{n}") for n in range(80)])
    large = [[{"role": "user", "content": "x" * 40_000}]] * 128
    yield "128 of 40,000 letters", of(BATCH, {"messages": large, "truncate_prompt_tokens": 9})
    yield "39,000 conversations", batch(39_000)
    yield "conversations that are none", of(BATCH, {"messages": [1] * 200_000})
    yield "empty conversations", of(BATCH, {"messages": [[]] * 39_000})


def _completions() -> Iterator[tuple[str, Hostile]]:
    for name, prompt in {
        "39,000 empty lists": [[]] * 39_000,
        "240,000 empty texts": [""] * 240_000,
        "240,000 fractions": [1.5] * 240_000,
        "200,000 ids": [5] * 200_000,
        "ids that are none": [10**18] * 1000,
        "100 lists of 1,000 ids": [[5] * 1000] * 100,
        "lists in lists": [[[5]]] * 10_000,
        "a text of 7 megabytes": "word " * 1_400_000,
        "null": None,
    }.items():
        yield name, of(COMPLETIONS, {"prompt": prompt})
    echoes = {"prompt": ["x" * 4000] * 128, "echo": True, "logprobs": 5, "max_tokens": 1}
    yield "128 echoes with logprobs", of(COMPLETIONS, echoes)
    yield "a suffix of a megabyte", of(COMPLETIONS, {"prompt": "x", "suffix": "s" * 1_000_000})
    yield "the best of a billion", of(COMPLETIONS, {"prompt": "x", "best_of": 10**9})


def _responses() -> Iterator[tuple[str, Hostile]]:
    item = {"role": "user", "content": "x"}
    references = [{"type": "item_reference", "id": f"msg_{n:032x}_0"} for n in range(2_000)]
    for name, items in {
        "a text of 7 megabytes": "word " * 1_400_000,
        "2,000 items": [item] * 2_000,
        "190,000 items": [item] * 190_000,
        "items that are none": [1] * 1_000_000,
        "parts in parts": [{**item, "content": [{"type": "input_text", "text": "x"}] * 100_000}],
        "2,000 items by their ids": references,
        "a million ids": [*references, {**item, "content": '"msg_x_0"' * 700_000}],
        "reasoning that is sealed elsewhere": [{"type": "reasoning", "summary": [], "encrypted_content": "A" * 10**6}],
        "calls without outputs": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}] * 2_000,
        "arguments of a megabyte": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "[" * 10**6}],
    }.items():
        yield name, of(RESPONSES, {"input": items})
    turns = [{"role": "user", "content": "word " * 200}] * 2_000
    yield "2,000 turns to truncate", of(RESPONSES, {"input": turns, "truncation": "auto"})
    deep: Body = {"type": "object"}
    for _ in range(60):
        deep = {"type": "object", "properties": {"a": deep, "b": deep}} if _ < 12 else {"allOf": [deep]}
    yield "a deep schema", of(RESPONSES, {"input": "x", "text": {"format": {"type": "json_schema", "schema": deep}}})
    yield "many pairs of metadata", of(RESPONSES, {"input": "x", "metadata": {str(n): "v" for n in range(400_000)}})
    yield "an id of 7 megabytes", of(RESPONSES, {"input": "x", "previous_response_id": "r" * 7_000_000})
    tools = [{"type": "namespace", "name": "n", "tools": [{"type": "custom", "name": f"t{n}"} for n in range(50_000)]}]
    yield "50,000 tools of a namespace", of(RESPONSES, {"input": "x", "tools": tools})
    yield "a response's path", Hostile(f"{RESPONSES}/" + "%2e%2e%2f" * 5_000, bytes, JSON, "GET")


def _messages() -> Iterator[tuple[str, Hostile]]:
    block = {"type": "text", "text": "x"}
    turns = [HI[0], {"role": "assistant", "content": "x"}]
    uses = [{"type": "tool_use", "id": f"c{n}", "name": "f", "input": {}} for n in range(20_000)]
    for name, messages in {
        "a text of 7 megabytes": [{"role": "user", "content": "word " * 1_400_000}],
        "2,000 messages": turns * 1_000,
        "200,000 messages": turns * 100_000,
        "200,000 blocks": [{"role": "user", "content": [block] * 200_000}],
        "20,000 calls without results": [HI[0], {"role": "assistant", "content": uses}],
        "a thought of 7 megabytes": [
            HI[0],
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "", "signature": "A" * 7_000_000}]},
            HI[0],
        ],
    }.items():
        for path in (MESSAGES, f"{MESSAGES}/count_tokens"):
            yield f"{name} to {path}", of(path, {"messages": messages, "max_tokens": 5})
    billing = "x-anthropic-billing-header: a\n" * 200_000
    yield "200,000 billing lines", of(MESSAGES, {"messages": HI, "max_tokens": 5, "system": billing})


def _conversations() -> Iterator[tuple[str, Hostile]]:
    item = {"role": "user", "content": "x"}
    yield "190,000 items", of(CONVERSATIONS, {"items": [item] * 190_000})
    yield "2,000 items of 3,000 letters", of(CONVERSATIONS, {"items": [{**item, "content": "x" * 3_000}] * 2_000})
    yield "items that are none", of(CONVERSATIONS, {"items": [1] * 1_000_000})
    yield "an item of 7 megabytes", of(CONVERSATIONS, {"items": [{**item, "content": "word " * 1_400_000}]})


def _compressed() -> Iterator[tuple[str, Hostile]]:
    def bomb() -> bytes:
        return b'{"x":"' + b"a" * 500_000_000 + b'"}'

    gzipped, zstd = {**JSON, "content-encoding": "gzip"}, {**JSON, "content-encoding": "zstd"}
    yield "half a gigabyte in gzip", Hostile(CHAT, lambda: gzip.compress(bomb(), 9), gzipped)
    yield "half a gigabyte in zstd", Hostile(CHAT, lambda: zstandard.compress(bomb(), 3), zstd)
    yield "gzip in gzip", Hostile(CHAT, lambda: gzip.compress(gzip.compress(bomb(), 1)), gzipped)
    yield "gzip that is cut", Hostile(CHAT, lambda: gzip.compress(b"x" * 10**6)[:-9], gzipped)
    yield "no gzip", Hostile(CHAT, lambda: b"\x1f\x8b" + b"\0" * 1_000_000, gzipped)
    yield "no zstd", Hostile(CHAT, lambda: b"\0" * 1_000_000, zstd)
    yield "a window of 2 GB", Hostile(CHAT, lambda: b"\x28\xb5\x2f\xfd\x00\xa8" + b"\0" * 100, zstd)
    yield "10,000 gzips in a row", Hostile(CHAT, lambda: gzip.compress(b"{}") * 10_000, gzipped)
    yield "deflate", Hostile(CHAT, lambda: zlib.compress(b"{}"), {**JSON, "content-encoding": "deflate"})
    yield "two encodings", Hostile(CHAT, lambda: b"{}", {**JSON, "content-encoding": "gzip, gzip"})


def _heads() -> Iterator[tuple[str, Hostile]]:
    def body() -> bytes:
        return json.dumps({"messages": HI}).encode()

    yield "a header of 60,000", Hostile(CHAT, body, {**JSON, "x-a": "a" * 60_000})
    yield "a header of 200,000", Hostile(CHAT, body, {**JSON, "x-a": "a" * 200_000})
    yield "1,000 headers", Hostile(CHAT, body, {**JSON, **{f"x-{n}": "a" for n in range(1000)}})
    yield "a key of 50,000", Hostile(CHAT, body, {**JSON, "authorization": "Bearer " + "k" * 50_000})
    yield "a session of 10,000", Hostile(CHAT, body, {**JSON, "x-session-id": "s" * 10_000})
    yield "a request id of 50,000", Hostile(CHAT, body, {**JSON, "x-request-id": "r" * 50_000})
    yield "types that are accepted", Hostile(CHAT, body, {**JSON, "accept-encoding": "gzip;q=" + "0" * 50_000})
    yield "a path of 50,000", Hostile("/" + "a/" * 25_000, bytes, JSON, "GET")
    yield "a path of slashes", Hostile("/v1" + "/" * 45_000, bytes, JSON, "GET")
    yield "a path of /v1", Hostile("/v1" * 15_000, bytes, JSON, "GET")
    yield "a model's path", Hostile("/v1/models/" + "%2e%2e%2f" * 5_000, bytes, JSON, "GET")
    yield "a query of 50,000", Hostile("/v1/models?" + "a=1&" * 12_000, bytes, JSON, "GET")
    yield "another method", Hostile(CHAT, body, JSON, "PATCH")


def _tokens() -> Iterator[tuple[str, Hostile]]:
    yield "tokenize 7 megabytes", of("/tokenize", {"prompt": "word " * 1_400_000})
    yield (
        "tokenize a megabyte, with words",
        of("/tokenize", {"prompt": "a" * 1_000_000, "return_token_strs": True}),
    )
    yield "detokenize 240,000", of("/detokenize", {"tokens": [5] * 240_000})
    yield "detokenize what is no token", of("/detokenize", {"tokens": [2**62] * 1000})
    yield "detokenize below zero", of("/detokenize", {"tokens": [-1] * 1000})
    yield "tokenize 2,000 messages", of("/tokenize", {"messages": HI * 2000})
