"""Grafana's view of a cluster: what the dashboards show, how they are written, and how they get to a Grafana server.

panels.py -> board.py -> publish.py
"""
