"""The panels that the dashboards are made of, with the settings that all of ours share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Json = dict[str, Any]

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
FLEET_UID = "npumon-fleet"
BOARD_UID = "npumon-board"
RUNBOOK = "docs/runbook.md"
"""As in the alerts' runbook_url: the page's path in this project, for whoever serves it to prefix."""

GREEN, ORANGE, RED, GREY, BLUE, PURPLE = "green", "orange", "red", "#8e8e8e", "blue", "purple"
VERDICTS = {"healthy": GREEN, "unknown": GREY, "degraded": ORANGE, "fallback": RED}
"""Verdicts from good to bad with their colours. The position is the rank that ``rank()`` gives."""


def over_time(expr: str, legend: str = "__auto") -> Json:
    """A query over the dashboard's time range."""
    return {"expr": expr, "legendFormat": legend, "range": True, "instant": False, "format": "time_series"}


def now(expr: str, legend: str = "__auto") -> Json:
    """A query at the end of the time range, one number for each series."""
    return {"expr": expr, "legendFormat": legend, "range": False, "instant": True, "format": "time_series"}


def rows(expr: str) -> Json:
    """A query at the end of the time range, one row for each series, its labels as columns."""
    return {"expr": expr, "legendFormat": "__auto", "range": False, "instant": True, "format": "table"}


def buckets(expr: str) -> Json:
    """A query for a heatmap: one series for each ``le``."""
    return {"expr": expr, "legendFormat": "{{le}}", "range": True, "instant": False, "format": "heatmap"}


def panel(kind: str, number: int, title: str, about: str, size: tuple[int, int], queries: Sequence[Json]) -> Json:
    """What all panels have. ``number`` is the panel's lasting id: links to one panel are made with it."""
    targets = [
        {"refId": chr(ord("A") + n), "datasource": DATASOURCE, "editorMode": "code", **q} for n, q in enumerate(queries)
    ]
    return {
        "type": kind,
        "id": number,
        "title": title,
        "description": about,
        "datasource": DATASOURCE,
        "gridPos": {"x": 0, "y": 0, "w": size[0], "h": size[1]},
        "targets": targets,
        "transformations": [],
        "transparent": False,
    }


def fields(unit: str, empty: str, custom: Json, overrides: Iterable[Json] = (), **more: Any) -> Json:
    """A panel's field configuration. ``empty`` is what it says when there is no data."""
    defaults: Json = {
        "unit": unit,
        "noValue": empty,
        "color": {"mode": "palette-classic"},
        "mappings": [],
        "thresholds": {"mode": "absolute", "steps": [{"color": GREEN, "value": None}]},
        **more,
    }
    return {"defaults": defaults | ({"custom": custom} if custom else {}), "overrides": list(overrides)}


def override(name: str, /, **properties: Any) -> Json:
    """What is different about one field. In a keyword, ``__`` stands for the dot of a property's id."""
    values = [{"id": key.replace("__", "."), "value": value} for key, value in properties.items()]
    return {"matcher": {"id": "byName", "options": name}, "properties": values}


def colour(name: str, fixed: str, **properties: Any) -> Json:
    """A series that always has the same colour."""
    return override(name, color={"mode": "fixed", "fixedColor": fixed}, **properties)


def dashed(name: str, fixed: str) -> Json:
    """A series that is a bound and no measurement."""
    return colour(name, fixed, custom__lineStyle={"fill": "dash", "dash": [8, 6]}, custom__lineWidth=1)


def shades(pattern: str, of: str) -> Json:
    """The series whose names match have shades of one colour."""
    colour_ = [{"id": "color", "value": {"mode": "shades", "fixedColor": of}}]
    return {"matcher": {"id": "byRegexp", "options": f"/{pattern}/"}, "properties": colour_}


def drawn(pattern: str, fill: str, dash: list[int]) -> Json:
    """The series whose names match are drawn as thin broken lines."""
    style = [{"id": "custom.lineStyle", "value": {"fill": fill, "dash": dash}}, {"id": "custom.lineWidth", "value": 1}]
    return {"matcher": {"id": "byRegexp", "options": f"/{pattern}/"}, "properties": style}


def words(mapping: dict[str, tuple[str, str]]) -> list[Json]:
    """Value mappings: value -> (text, colour)."""
    options = {
        value: {"text": text, "color": shade, "index": n} for n, (value, (text, shade)) in enumerate(mapping.items())
    }
    return [{"type": "value", "options": options}]


RANKS = words({str(n): (state, shade) for n, (state, shade) in enumerate(VERDICTS.items())})
STATES = words({state: (state, shade) for state, shade in VERDICTS.items()})


def stat(number: int, title: str, about: str, query: Json, unit: str, empty: str, width: int = 3, **more: Any) -> Json:
    """One number, or one word. ``text``: ``value``, ``name`` or ``value_and_name``."""
    made = panel("stat", number, title, about, (width, 4), [query])
    text, colours = more.pop("text", "value"), more.pop("colours", "value")
    links = more.pop("links", [])
    made["fieldConfig"] = fields(unit, empty, {}, **({"color": {"mode": "thresholds"}} | more), links=links)
    made["options"] = {
        "colorMode": colours,
        "graphMode": "none",
        "justifyMode": "center",
        "orientation": "auto",
        "percentChangeColorMode": "standard",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showPercentChange": False,
        "textMode": text,
        "wideLayout": True,
    }
    return made


def bad_above(*limits: tuple[float, str], base: str = GREEN) -> Json:
    """Thresholds: the colour from each limit upwards."""
    return {
        "mode": "absolute",
        "steps": [{"color": base, "value": None}, *({"color": shade, "value": limit} for limit, shade in limits)],
    }


def series(
    number: int,
    title: str,
    about: str,
    queries: Sequence[Json],
    unit: str,
    empty: str,
    size: tuple[int, int] = (12, 8),
    overrides: Iterable[Json] = (),
    stacked: bool = False,
    bars: bool = False,
    **more: Any,
) -> Json:
    """Curves over time. A gap stays a gap: what was not measured is not drawn."""
    made = panel("timeseries", number, title, about, size, queries)
    hidden = {"legend": False, "tooltip": False, "viz": False}
    custom: Json = {
        "drawStyle": "bars" if bars else "line",
        "lineInterpolation": "stepAfter",
        "lineWidth": 0 if stacked else 2,
        "fillOpacity": 80 if stacked or bars else 0,
        "showPoints": "never" if stacked or bars else "auto",
        "pointSize": 4,
        "spanNulls": False,
        "axisPlacement": "auto",
        "axisSoftMin": 0,
        "hideFrom": hidden,
        "stacking": {"group": "A", "mode": "normal" if stacked or bars else "none"},
        "thresholdsStyle": {"mode": "off"},
    }
    made["fieldConfig"] = fields(unit, empty, custom, overrides, **more)
    made["options"] = {
        "legend": {"calcs": ["lastNotNull"], "displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return made


def timeline(
    number: int, title: str, about: str, queries: Sequence[Json], empty: str, size: tuple[int, int], **more: Any
) -> Json:
    """States over time, as bars of colour."""
    made = panel("state-timeline", number, title, about, size, queries)
    overrides = more.pop("overrides", ())
    custom = {"fillOpacity": 75, "lineWidth": 0, "hideFrom": {"legend": False, "tooltip": False, "viz": False}}
    made["fieldConfig"] = fields("none", empty, custom, overrides, color={"mode": "thresholds"}, **more)
    made["options"] = {
        "alignValue": "left",
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": False},
        "mergeValues": True,
        "rowHeight": 0.8,
        "showValue": "auto",
        "tooltip": {"mode": "single", "sort": "none"},
    }
    return made


def heatmap(number: int, title: str, about: str, query: Json, empty: str, size: tuple[int, int]) -> Json:
    """A histogram over time, in seconds."""
    made = panel("heatmap", number, title, about, size, [query])
    hidden = {"legend": False, "tooltip": False, "viz": False}
    made["fieldConfig"] = fields("short", empty, {"hideFrom": hidden, "scaleDistribution": {"type": "linear"}})
    made["options"] = {
        "calculate": False,
        "cellGap": 1,
        "cellValues": {"unit": "short", "decimals": 0},
        "color": {
            "exponent": 0.5,
            "fill": "dark-orange",
            "mode": "scheme",
            "reverse": False,
            "scale": "exponential",
            "scheme": "Oranges",
            "steps": 64,
        },
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto", "value": "replays"},
        "showValue": "never",
        "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": True},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": "s"},
    }
    return made


def table(
    number: int,
    title: str,
    about: str,
    queries: dict[str, Json],
    columns: Sequence[str],
    empty: str,
    size: tuple[int, int],
    overrides: Iterable[Json] = (),
    worst: str | None = None,
    hidden: Iterable[str] = (),
) -> Json:
    """A table of several queries that have their labels in common.

    ``queries``: heading of the value -> query; ``columns``: labels and headings in order; ``worst``: the heading to
    sort by, largest first; ``hidden``: labels that are only there to tell rows apart.
    """
    made = panel("table", number, title, about, size, list(queries.values()))
    custom = {"align": "auto", "cellOptions": {"type": "auto"}, "filterable": True, "inspect": False, "minWidth": 90}
    # The words for an empty table are not for a cell that has nothing to say.
    nothing = {"matcher": {"id": "byRegexp", "options": "/.*/"}, "properties": [{"id": "noValue", "value": ""}]}
    made["fieldConfig"] = fields("none", empty, custom, [nothing, *overrides])
    made["options"] = {
        "cellHeight": "sm",
        "frameIndex": 0,
        "showHeader": True,
        "sortBy": [{"displayName": worst, "desc": True}] if worst else [],
    }
    # Grafana calls the value of one query "Value" and those of several "Value #A", "Value #B".
    values = [f"Value #{target['refId']}" for target in made["targets"]] if len(queries) > 1 else ["Value"]
    renamed = dict(zip(values, queries, strict=True))
    order = {column: n for n, column in enumerate(columns)}
    organize = {
        "excludeByName": dict.fromkeys(
            ["Time", *hidden, *(v for v, name in renamed.items() if name not in order)], True
        ),
        "indexByName": {value: order[name] for value, name in renamed.items() if name in order}
        | {column: n for column, n in order.items() if column not in queries},
        "renameByName": {value: name for value, name in renamed.items() if name in order},
    }
    made["transformations"] = [
        *([{"id": "merge", "options": {}}] if len(queries) > 1 else []),
        {"id": "organize", "options": organize},
    ]
    return made


def share(name: str, shade: str = RED, **more: Any) -> Json:
    """A column of shares, drawn as a bar."""
    gauge = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}
    fixed = {"mode": "fixed", "fixedColor": shade}
    return override(name, unit="percentunit", min=0, max=1, color=fixed, custom__cellOptions=gauge, **more)


def to_board(field: str, model: bool = True) -> Json:
    """A column whose cells open the board's dashboard at the same time range."""
    about = ["job", "instance", *(["model"] if model else [])]
    picked = "&".join(f"var-{name}=${{__data.fields.{name}}}" for name in about)
    url = f"/d/{BOARD_UID}?var-datasource=${{datasource}}&{picked}&${{__url_time_range}}"
    return override(field, links=[{"title": "Board and model", "url": url, "targetBlank": False}])


def row(number: int, title: str) -> Json:
    """A heading."""
    return {"type": "row", "id": number, "title": title, "collapsed": False, "panels": [], "gridPos": {}}


def coloured(name: str, mapping: dict[str, tuple[str, str]]) -> Json:
    """A column of words, each in its colour."""
    return override(name, mappings=words(mapping), custom__cellOptions={"type": "color-text"})
