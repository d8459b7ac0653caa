"""Structured output and what else an answer's own tokens allow next. Functions of tokens; masks are bit arrays.

`grammar.py` follows what a request's answer must match. `grammar_start.py` knows where in the answer that begins, after
the reasoning if there is any; where it must end in time, `output_budget.py` keeps to a way that
`shortest_completion.py` has found (`json_hints.py`: what it tries first). `reasoning_budget.py` ends reasoning in time,
`repetition.py` an answer that repeats itself. A `token_marker.py` is a run of tokens that begins or ends something.
"""
