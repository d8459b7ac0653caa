"""The configuration: every setting once, with its unit, and the files that `serve deploy` takes.

`schema.py` declares the keys, `load.py` parses a mapping or a file into them. This package imports no other one of
ours, and no other one reads environment variables or flags.
"""
