"""The configuration: every setting once, with its unit, and the files that `serve deploy` takes.

`schema.py` declares what can be set, `load.py` turns a mapping or a file into those values. Nothing here imports
anything else of ours, and nothing above reads environment variables or flags.
"""
