"""Structured output: grammar masks, output budget, reasoning budget, repetition. Functions of an answer's tokens alone.

`grammar.py` computes grammar masks with llguidance. `grammar_start.py` tracks where in the answer the grammar begins:
after the reasoning, if there is any. `output_budget.py` keeps an answer short enough to be finished (`fit`), by a
completion that `shortest_completion.py` finds (`json_hints.py` orders its search). `reasoning_budget.py` ends reasoning
after so many tokens, `repetition.py` an answer that repeats itself. `token_marker.py` finds markers such as `</think>`.
"""
