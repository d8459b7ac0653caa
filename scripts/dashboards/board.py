"""A dashboard in Grafana's JSON model (schema version 39: Grafana 10.4 and later)."""

from typing import Any

from scripts.dashboards.panels import Board, Panel

__all__ = ["board_json"]

Json = dict[str, Any]

SCHEMA_VERSION = 39
COLUMNS, PANEL_COLUMNS, PANEL_HEIGHT = 24, 12, 8  # units of Grafana's grid
SOURCE = {"type": "prometheus", "uid": "${source}"}


def board_json(board: Board) -> Json:
    panels: list[Json] = []
    y = 0
    for title, row in board.rows.items():
        panels.append(
            {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": _at(0, y, COLUMNS, 1)}
        )
        y += 1
        for number, panel in enumerate(row):
            x = number * PANEL_COLUMNS % COLUMNS
            panels.append(_panel(panel, _at(x, y, PANEL_COLUMNS, PANEL_HEIGHT)))
            if x + PANEL_COLUMNS == COLUMNS or number == len(row) - 1:
                y += PANEL_HEIGHT
    return {
        "uid": board.uid,
        "title": board.title,
        "tags": ["manta"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,  # the cursor shows in all panels
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "panels": [{"id": number, **panel} for number, panel in enumerate(panels, 1)],
    }


def _at(x: int, y: int, width: int, height: int) -> Json:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(panel: Panel, position: Json) -> Json:
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "gridPos": position,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": {"fillOpacity": 10}}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
            for number, (legend, expression) in enumerate(panel.lines.items())
        ],
    }


def _variables() -> list[Json]:
    models = "label_values(ray_vllm_num_requests_running, model_name)"
    return [
        {"name": "source", "type": "datasource", "label": "Prometheus", "query": "prometheus"},
        {
            "name": "model",
            "type": "query",
            "label": "Model",
            "datasource": SOURCE,
            "query": {"query": models, "refId": "models"},
            "refresh": 2,  # whenever the time range changes
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        },
    ]
