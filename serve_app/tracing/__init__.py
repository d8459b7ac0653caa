"""Traces: one tree of OpenTelemetry spans per request (api.traces), W3C trace context in, X-Trace-Id out.

    spans     from the record of a request that has ended (serve_app/logs) to its spans, as values
    otel      OpenTelemetry's side: sampler, parent, exporter
    logging_exporter   says once a minute that the collector does not answer

    POST /v1/chat/completions      server span: GenAI attributes, vLLM's gen_ai.latency.*, status
      read_body, prepare, template, tokenize, grammar, compile_grammar
      route                        until a replica has accepted: choice of the replica, wire, refusals
      queue, prefill, decode       of each choice on each replica; chunks and preemptions are events
      migrate                      from the last output of one replica to the first one of the next: the silence
      resume, attach               a client that has come back to a stream

All spans are made in the ingress, when the request and its answer have ended, from times that came back over the wire.
So replicas need no exporter, no collector can slow an engine, the spans of all replicas of a migrated stream hang in
one tree by construction, and a replica that was killed has no span to lose. An engine's times are seconds since its
acceptance; each is told with the age of the output that brings it, so that no clocks are compared: the error is the
output's way over the wire. A replica's log has the request's id, which the root span has too. The price: what the
last replica had done when it died before its first output is not known, and an ingress that is killed takes its open
requests' spans along.

A client's sampled flag is honored, `sample_ratio` decides for requests without a parent. Export is in a thread
(BatchSpanProcessor); a collector that does not answer costs a log line a minute. Nothing is imported while traces are
off. Spans have no prompt, no answer and no text of an error. Tests: tests/serve_app/tracing.
"""
