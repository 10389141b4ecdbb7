"""What a dashboard is besides its panels: their places, variables, annotations and links.

The JSON is classic dashboard JSON at schema version 42. Nothing in it is newer than Grafana 10, whose own version is
lower: Grafana migrates upwards from what it is given and takes a higher number as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from grafana.panels import DATASOURCE, Json
from grafana.promql import BOARD, BOARDS


def laid_out(panels: Iterable[Json]) -> list[Json]:
    """The panels from left to right and top to bottom on Grafana's grid of 24 columns."""
    placed: list[Json] = []
    x = y = height = 0
    for one in panels:
        if one["type"] == "row":
            x, y, height = 0, y + height, 0
            one["gridPos"] = {"x": 0, "y": y, "w": 24, "h": 1}
            y += 1
        else:
            position = one["gridPos"]
            if x + position["w"] > 24:
                x, y, height = 0, y + height, 0
            position["x"], position["y"] = x, y
            x, height = x + position["w"], max(height, position["h"])
        placed.append(one)
    return placed


def variable(name: str, label: str, about: str, query: str, many: bool, all_value: str | None = None) -> Json:
    """A drop-down of a label's values, read anew whenever the time range changes."""
    chosen = {"selected": True, "text": ["All"], "value": ["$__all"]}
    made = {
        "type": "query",
        "name": name,
        "label": label,
        "description": about,
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": f"variable-{name}"},
        "refresh": 2,
        "sort": 7,
        "multi": many,
        "includeAll": many,
        "options": [],
        "hide": 0,
        "regex": "",
        "skipUrlSync": False,
    }
    return made | ({"current": chosen} if many else {}) | ({"allValue": all_value} if all_value else {})


def variables(many: bool) -> list[Json]:
    """``datasource``, ``job``, ``instance`` and ``model``, each narrowed by those before it."""
    datasource = {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "description": "A Prometheus, or what speaks its language.",
        "query": "prometheus",
        "refresh": 1,
        "multi": False,
        "includeAll": False,
        "options": [],
        "hide": 0,
        "regex": "",
        "skipUrlSync": False,
    }
    job, board = ('job=~"$job"', BOARDS) if many else ('job="$job"', BOARD)
    # "All" of job is spelled out, because `up` is everybody's metric. For thousands of boards .* is the shorter regex.
    rest = ".*" if many else None
    return [
        datasource,
        variable("job", "Job", "The scrape job of the boards.", "label_values(npumon_build_info, job)", many),
        variable("instance", "Board", "The board.", f"label_values(npumon_build_info{{{job}}}, instance)", many, rest),
        variable("model", "Model", "The model.", f"label_values(npumon_verdict{{{board}}}, model)", many, rest),
    ]


def annotation(name: str, expr: str, title: str, text: str, shade: str, step: str = "60s") -> Json:
    """Marks on every panel over time wherever ``expr`` has a series."""
    target = {"refId": "Anno", "expr": expr, "range": True, "instant": False, "interval": step}
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": shade,
        "target": target | {"legendFormat": title},
        "titleFormat": title,
        "textFormat": text,
    }


def dashboard(uid: str, title: str, about: str, panels: Iterable[Json], many: bool, **more: Any) -> Json:
    """The whole document."""
    builtin = {
        "builtIn": 1,
        "datasource": {"type": "grafana", "uid": "-- Grafana --"},
        "enable": True,
        "hide": True,
        "iconColor": "rgba(0, 211, 255, 1)",
        "name": "Annotations & Alerts",
        "type": "dashboard",
    }
    return {
        "uid": uid,
        "title": title,
        "description": about,
        "tags": ["npumon"],
        "schemaVersion": 42,
        "editable": True,
        "graphTooltip": 1,
        "fiscalYearStartMonth": 0,
        "refresh": "1m",
        "time": {"from": more.pop("since"), "to": "now"},
        "timezone": "browser",
        "weekStart": "",
        "links": more.pop("links"),
        "annotations": {"list": [builtin, *more.pop("annotations")]},
        "templating": {"list": variables(many)},
        "panels": laid_out(panels),
    }


def link(title: str, tooltip: str, url: str) -> Json:
    """A link at the top of a dashboard."""
    return {
        "type": "link",
        "title": title,
        "tooltip": tooltip,
        "url": url,
        "icon": "dashboard",
        "asDropdown": False,
        "includeVars": False,
        "keepTime": True,
        "tags": [],
        "targetBlank": False,
    }
