"""The dashboards: in step with their source, whole, and every query of theirs answered by a real Prometheus."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.grafana import metric_names, small_fleet
from tests.grafana.prometheus_server import Expositions, Prometheus
from tests.grafana.queries import DASHBOARDS, ROOT, Query, interpolated, panel, panels, queries, variables

NAMES = sorted(DASHBOARDS)
PANELS = [pytest.param(name, one, id=f"{name}-{one['id']}") for name in NAMES for one in panels(name)]
QUERIES = [pytest.param(name, one, id=one.where) for name in NAMES for one in queries(name)]

CHOSEN = {
    "fleet": {"job": "(npumon)", "instance": ".*", "model": ".*"},
    "board": {"job": "npumon", "instance": small_fleet.FALLEN, "model": "swift_f0"},
}
"""What is chosen in each dashboard: everything, and the board and model that fell back."""

TWICE = (small_fleet.NORMAL[0], "board-8", "board-11")
"""Boards that are listed twice: one that is well, one that falls back, one whose checks are stale."""

# Grafana's ids, which it does not check: a misspelt one is shown as a word behind the number.
UNITS = {"none", "percentunit", "s", "short", "celsius", "hertz", "suffix:x"}
# Panels that Grafana 10 has and later ones still do. `graph`, `table-old` and `singlestat` are gone.
KINDS = {"heatmap", "row", "stat", "state-timeline", "table", "timeseries"}


def _walk(node: object) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for below in node.values():
            yield from _walk(below)
    elif isinstance(node, list):
        for below in node:
            yield from _walk(below)


def test_there_are_two() -> None:
    """Fleet, and board and model, under the uids that links and bookmarks rely on."""
    assert {name: document["uid"] for name, document in DASHBOARDS.items()} == {
        "fleet": "npumon-fleet",
        "board": "npumon-board",
    }


def test_in_step_with_their_source(tmp_path: Path) -> None:
    """What is committed is what the source writes, and --check notices when it is not."""
    command = [sys.executable, "-m", "grafana.dashboards", "--check"]
    assert subprocess.run(command, cwd=ROOT, timeout=60, check=False).returncode == 0
    copy = tmp_path / "grafana"
    shutil.copytree(ROOT / "grafana", copy, ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "dashboards/board.json").open("a") as board:
        board.write("\n")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "board.json: not in step" in done.stderr
    assert "fleet.json" not in done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_can_be_imported_by_grafana_10_and_later(name: str) -> None:
    """Only panels that all of them have, no id of somebody's database, and a schema version that needs no migration."""
    document = DASHBOARDS[name]
    assert {one["type"] for one in document["panels"]} <= KINDS
    assert "id" not in document
    assert document["schemaVersion"] == 42


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_unique(name: str) -> None:
    """Every panel and row has an id of its own, which links to single panels are made with."""
    ids = [one["id"] for one in DASHBOARDS[name]["panels"]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", NAMES)
def test_panels_do_not_overlap(name: str) -> None:
    """The panels lie beside and below each other on the grid of 24 columns."""
    taken: dict[tuple[int, int], str] = {}
    for one in DASHBOARDS[name]["panels"]:
        place = one["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24, one["title"]
        columns, lines = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        for cell in itertools.product(columns, lines):
            assert taken.setdefault(cell, one["title"]) == one["title"], cell


@pytest.mark.parametrize(("name", "one"), PANELS)
def test_every_panel_explains_itself(name: str, one: dict[str, Any]) -> None:
    """A title, a description in sentences, a unit that Grafana knows, and words for when there is no data."""
    defaults = one["fieldConfig"]["defaults"]
    assert one["title"]
    assert re.search(r"[.]$", one["description"]), one["description"]
    assert defaults["noValue"]
    units = [node["unit"] for node in _walk(one) if "unit" in node]
    units += [node["value"] for node in _walk(one) if node.get("id") == "unit"]
    assert units
    assert set(units) <= UNITS


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_cell_is_empty(name: str) -> None:
    """The words for a table without rows do not stand in each cell that has no value."""
    tables = [one for one in panels(name) if one["type"] == "table"]
    assert tables
    for one in tables:
        first = one["fieldConfig"]["overrides"][0]
        assert first["matcher"] == {"id": "byRegexp", "options": "/.*/"}
        assert first["properties"] == [{"id": "noValue", "value": ""}]


@pytest.mark.parametrize("name", NAMES)
def test_the_data_source_is_the_chosen_one(name: str) -> None:
    """Every panel, query, variable and annotation asks the chosen data source, not one of somebody's Grafana."""
    sources = [node["datasource"] for node in _walk(DASHBOARDS[name]) if isinstance(node.get("datasource"), dict)]
    own = {"type": "grafana", "uid": "-- Grafana --"}
    assert sources.count(own) == 1
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources if source != own)
    assert all("datasource" in target for one in panels(name) for target in one["targets"])


@pytest.mark.parametrize("name", NAMES)
def test_variables(name: str) -> None:
    """The four variables are there, and each query narrows by those before it."""
    document = DASHBOARDS[name]
    assert [one["name"] for one in document["templating"]["list"]] == ["datasource", "job", "instance", "model"]
    for before, one in zip(variables(name), variables(name)[1:], strict=False):
        assert f"${before['name']}" in one["query"]["query"]


@pytest.mark.parametrize(("name", "query"), QUERIES)
def test_every_metric_exists(name: str, query: Query) -> None:
    """Each name in a query is one that npumon exports or that a recording rule gives."""
    names = metric_names.used(query.expr)
    assert names or re.search(r"\b(up|ALERTS)\{", query.expr)
    assert names <= metric_names.exported() | metric_names.recorded()


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    """Each link opens a dashboard that exists and sets variables that it has, from columns that are there."""
    by_uid = {document["uid"]: document for document in DASHBOARDS.values()}
    urls = [node["url"] for node in _walk(DASHBOARDS[name]) if node.get("url")]
    assert urls
    for url in filter(lambda url: not url.startswith("docs/runbook.md#"), urls):
        uid, _, parameters = url.removeprefix("/d/").partition("?")
        known = {one["name"] for one in by_uid[uid]["templating"]["list"]}
        assert {match for match in re.findall(r"var-(\w+)=", parameters)} <= known
    for one in panels(name):
        urls = [node["url"] for node in _walk(one) if "url" in node]
        for column in {match for url in urls for match in re.findall(r"__data\.fields\.(\w+)", url)}:
            organize = one["transformations"][-1]["options"]
            assert column in organize["indexByName"], one["title"]
            assert column not in organize["excludeByName"], one["title"]


def twice(served: Expositions) -> list[dict[str, Any]]:
    """Some boards once more, with another target label, as in two files of a service discovery."""
    found = [one for one in served.targets() if one["labels"]["instance"] in TWICE]
    return [{**one, "labels": one["labels"] | {"site": "berlin"}} for one in found]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has scraped the small fleet since before it changed, with the project's own rules."""
    rules = sorted((ROOT / "grafana/rules").glob("*.yml"))
    with (
        Expositions(small_fleet.PAGES) as served,
        Prometheus(tmp_path_factory.mktemp("prometheus"), [*served.targets(), *twice(served)], rules) as server,
    ):
        server.wait(lambda: min(served.asked.values()) > small_fleet.CHANGE + 3, "scraped")
        # The rules read each other, and take a few rounds to see what the last scrape brought.
        server.wait(lambda: bool(server.now('ALERTS{alertname="NpumonFallback"}')), "aware of the fallback")
        yield server


@pytest.mark.parametrize(("name", "query"), QUERIES)
def test_every_query_returns_data(prometheus: Prometheus, name: str, query: Query) -> None:
    """Prometheus accepts the query and has a number for it."""
    expr = interpolated(query.expr, CHOSEN[name])
    end = time.time()
    found = (
        [[value] for _, value in prometheus.now(expr)]
        if query.instant
        else [values for _, values in prometheus.over_time(expr, end - 30, end, 2)]
    )
    assert any(value == value for values in found for value in values), expr


@pytest.mark.parametrize("name", NAMES)
def test_every_variable_has_values(prometheus: Prometheus, name: str) -> None:
    """The drop-downs offer the job, the boards and the models."""
    offered = {}
    for one in variables(name):
        match = re.fullmatch(r"label_values\((.*), (\w+)\)", one["query"]["query"])
        assert match, one
        offered[one["name"]] = set(prometheus.label_values(match[2], interpolated(match[1], CHOSEN[name])))
    assert offered["job"] == {"npumon"}
    assert small_fleet.FALLEN in offered["instance"]
    assert "swift_f0" in offered["model"]


def _rows(prometheus: Prometheus, title: str, query: int = 0) -> list[tuple[dict[str, str], float]]:
    target = panel("fleet", title)["targets"][query]
    return prometheus.now(interpolated(target["expr"], CHOSEN["fleet"]))


def test_shares_of_boards(prometheus: Prometheus) -> None:
    """Of the ten boards that answer seven are healthy, two are in fallback and one is unknown."""
    shares = {title: _rows(prometheus, title)[0][1] for title in ("Healthy", "Degraded", "Fallback", "Unknown")}
    assert shares == pytest.approx({"Healthy": 0.7, "Degraded": 0.0, "Fallback": 0.2, "Unknown": 0.1})
    assert [_rows(prometheus, title)[0][1] for title in ("Boards", "Not scraped", "Stale checks")] == [10, 1, 1]


def test_the_op_is_named(prometheus: Prometheus) -> None:
    """The table of models in trouble names the op type and the cause beside the board and the model."""
    ops = {labels["instance"]: labels["op_type"] for labels, _ in _rows(prometheus, "Models in trouble", 2)}
    causes = {labels["instance"]: labels["cause"] for labels, _ in _rows(prometheus, "Models in trouble", 1)}
    assert ops[small_fleet.FALLEN] == "Conv"
    assert causes[small_fleet.FALLEN] == "dynamic_shape"
    assert not set(small_fleet.NORMAL) & (ops.keys() | causes.keys())


def test_alerts_say_where_and_why(prometheus: Prometheus) -> None:
    """An alert's row has the board's SoC and versions, the cause and the op; the name leads to the runbook."""
    (row,) = (
        labels
        for labels, _ in _rows(prometheus, "Alerts")
        if labels["alertname"] == "NpumonFallback" and labels["instance"] == small_fleet.FALLEN
    )
    told = {"soc": "QCS6490", "cause": "dynamic_shape", "op_type": "Conv", "backend_version": "v2.51.0"}
    assert row.items() >= told.items()
    assert len(row["version"]) == 12
    columns = panel("fleet", "Alerts")["transformations"][-1]["options"]["indexByName"]
    assert {*told, "version", "signal"} <= columns.keys()
    assert "docs/runbook.md#${__value.text}" in str(panel("fleet", "Alerts")["fieldConfig"])


def test_the_odd_board_stands_out(prometheus: Prometheus) -> None:
    """A board twice as slow as its five peers, with less on the NPU, is in both tables, and no other board is."""
    ((slow, times),) = _rows(prometheus, "Latency unlike the cohort's")
    ((other, points),) = _rows(prometheus, "NPU-FLOP share unlike the cohort's")
    assert slow["instance"] == other["instance"] == small_fleet.ODD
    assert times == pytest.approx(2)
    assert points == pytest.approx(-0.1997)


def test_the_cohort_that_broke_stands_out(prometheus: Prometheus) -> None:
    """All of the new SDK's boards are in fallback, none of the old one's."""
    shares = {labels["model"]: value for labels, value in _rows(prometheus, "Cohorts", 1)}
    assert shares == {"swift_f0": 1, "minilm": 1, "qdq_net": 0, "ppocr_det": 0}


def test_silent_boards_are_told_apart(prometheus: Prometheus) -> None:
    """A board that does not answer and one that answers but does not check are listed, each with its reason."""
    found = {labels["instance"]: labels["why"] for labels, _ in _rows(prometheus, "Silent boards")}
    assert found == {small_fleet.SILENT: "not scraped", "board-11": "checks are stale"}


@pytest.mark.parametrize(("name", "query"), QUERIES)
def test_no_query_fails_on_an_empty_fleet(prometheus: Prometheus, name: str, query: Query) -> None:
    """Where nothing is, a query is empty or 0, and no error is shown."""
    for _, value in prometheus.now(interpolated(query.expr, {"job": "nobody", "instance": "nothing", "model": "none"})):
        assert value == 0, query.expr
