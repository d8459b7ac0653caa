"""Prometheus metrics of one ingress, under vLLM's names.

    request_metrics   observes each answer: time to first token, inter-token latency, tokens, finish reasons
    key_usage         tokens of each API key, where the operator wants them
    prometheus        histograms and the text format

Promises: a delta costs two observations; refused requests are not counted; a disconnected client's answer counts as
abort. Tests: tests/serve_app/metrics, which parse the page with Prometheus' own parser.
"""
