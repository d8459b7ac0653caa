"""What is written about requests: structured logs, an access line and a usage ledger, from one record of each request.

    request_record    what becomes known of a request on its way; its facts, once it and its answer have ended
    answer_record     the observer that adds an answer: tokens, times, and of a traced request every placement
    record_requests   the middleware that begins and ends records
    access_log        an access line per request (api.access_log)
    usage_ledger      JSON lines per request that asked for an answer (api.usage_ledger)
    ledger_file       its file: rotated by bytes, and what dead processes have left is removed by the same bounds
    formats           log lines as text or JSON, which no name and no message can forge

Promises: no prompt, no answer and no API key is written; a name is escaped wherever it stands in a line. A resumable
stream or a background response is written when it ends, not when its client leaves. Nothing here blocks the event loop,
and no fault of a disk or a collector fails a request. With everything off there are no records.

The ledger's lines are written by a thread: an answer is not delayed. A line is whole or not there: what a full disk has
cut is taken back, counted (manta_usage_ledger_lost_lines_total) and logged at most once a minute. Each process writes a
file of its own. Without `fsync` a line outlives the process as soon as it is written (within milliseconds), and the
machine as soon as the kernel has written its pages (some 30 s); with it each batch of lines is on the disk before the
next. Tests: tests/serve_app/logs.
"""
