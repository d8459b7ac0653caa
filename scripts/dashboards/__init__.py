"""Grafana dashboards of a cluster: their panels, their JSON, and their upload to a Grafana server.

panels.py -> board.py -> publish.py
"""
