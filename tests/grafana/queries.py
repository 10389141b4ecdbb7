"""What Grafana would send: the queries of a dashboard, with variables and macros replaced."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "grafana/dashboards").glob("*.json"))
DASHBOARDS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FILES}


class Query(NamedTuple):
    """One query. ``format``: ``table``, ``time_series``, ``heatmap`` or ``annotation``."""

    where: str
    expr: str
    instant: bool
    format: str


def panels(name: str) -> list[dict[str, Any]]:
    """A dashboard's panels without its rows."""
    return [panel for panel in DASHBOARDS[name]["panels"] if panel["type"] != "row"]


def panel(name: str, title: str) -> dict[str, Any]:
    """The panel of that title."""
    (found,) = [panel for panel in panels(name) if panel["title"] == title]
    return found


def variables(name: str) -> list[dict[str, Any]]:
    """The variables that are read from the data source."""
    return [one for one in DASHBOARDS[name]["templating"]["list"] if one["type"] == "query"]


def queries(name: str) -> Iterator[Query]:
    """Every query of a dashboard: those of panels first, then annotations."""
    for one in panels(name):
        for target in one["targets"]:
            where = f"{name}: {one['title']} {target['refId']}"
            yield Query(where, target["expr"], target["instant"], target["format"])
    for one in DASHBOARDS[name]["annotations"]["list"]:
        if not one.get("builtIn"):
            yield Query(f"{name}: annotation {one['name']}", one["target"]["expr"], False, "annotation")


def interpolated(expr: str, chosen: dict[str, str], interval: str = "2s", range_: str = "6s") -> str:
    """``expr`` as Grafana sends it. An unknown variable fails, as it would be sent as it stands."""
    known = chosen | {"__interval": interval, "__rate_interval": "10s", "__range": range_}

    def value(match: re.Match[str]) -> str:
        return known[match[1]]

    return re.sub(r"\$([A-Za-z_]\w*)", value, expr)
