"""Metrics of one ingress for Prometheus, under vLLM's names.

    request_metrics   observes each answer: time to first token, inter-token latency, tokens, finish reasons
    prometheus        histograms and the text format

Promises: a delta costs two observations; what is refused is not counted; an answer whose client leaves is an abort.
Tests: tests/serve_app/metrics, which read the page with Prometheus' own parser.
"""
