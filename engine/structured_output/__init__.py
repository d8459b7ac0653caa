"""What an answer's own tokens say about what may follow. Functions of tokens; only the bits of a mask are arrays.

`grammar.py` follows what a request's answer must match. `beginning.py` knows where in the answer that begins, after the
thinking if there is any; where it must end in time, `fitting.py` keeps to a way that `endings.py` has found.
`thinking.py` ends thinking within its budget, `repetition.py` an answer that goes round in circles. A `marker.py` is a
run of tokens that begins or ends something.
"""
