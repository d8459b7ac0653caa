"""Resumable streams: what any ingress needs to continue an answer that another one began, to the byte.

    event_ids       ids of streams and events, and what a client has: Last-Event-ID and Idempotency-Key
    event_log       the last events of a running stream, numbered, bounded in bytes
    records         the remembered request, and the facts of its first run that a second one could not find again
    steady_outputs  an engine client whose outputs do not depend on how the engine's steps fell

An answer is a function of its prepared request, its seed, its ids and times: all are in the record, so that events
that nobody kept are generated again. The runs are in pipeline/stream_run.py. Tests: tests/serve_app/resumption.
"""
