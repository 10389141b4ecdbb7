"""Boards that are in the data twice, with different target labels, through promtool and on a real Prometheus."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from tests.grafana import small_fleet
from tests.grafana.prometheus_server import Expositions
from tests.grafana.test_rules_fleet import FALLEN, GOOD, ROLLOUT, at, board, check, firing, fleet
from tests.grafana.wired import WiredPrometheus


def listed(series: list[dict[str, str]], **labels: str) -> list[dict[str, str]]:
    """The same series with target labels, as service discovery gives them."""
    more = ", ".join(f"{label}={json.dumps(value)}" for label, value in labels.items())
    return [{**one, "series": one["series"].replace("{", f"{{{more}, ", 1)} for one in series]


def test_a_board_that_is_listed_twice_harms_no_other(tmp_path: Path) -> None:
    """One board in two files with two sites: alerts, counts and shares are those of a fleet without a mistake."""
    series = fleet(6, (0, GOOD), prefix="old") + fleet(6, (0, GOOD), (20, FALLEN), prefix="bad")
    twice = board("twice", (0, GOOD), (20, FALLEN))
    series += listed(twice, site="berlin") + listed(twice, site="paris")
    every = tuple({"instance": f"bad{n}"} for n in range(6))
    sites = 'count by (instance) (ALERTS{alertname="NpumonFallback", alertstate="firing", site=~"berlin|paris"})'
    check(
        tmp_path,
        series,
        at(10, "sum(cohort:npumon_boards:count)", ("{}", 13)),
        at(10, "sum(cohort:npumon_verdict:count)", ("{}", 13)),
        at(10, "sum(soc_state:npumon_boards:count)", ("{}", 13)),
        at(10, "count(instance_model:npumon_latency_median_seconds:identity)", ("{}", 13)),
        firing("NpumonFallback", 25, "instance", *every, {"instance": "twice"}),
        at(25, sites, ('{instance="twice"}', 1)),
        firing("NpumonFallback", 60, "instance", *every, {"instance": "twice"}),
        firing(ROLLOUT, 40, "signal", {"signal": "share"}, {"signal": "unhealthy"}),
    )


def test_a_board_that_gets_a_target_label_harms_no_other(tmp_path: Path) -> None:
    """A board gets a site, and is another series than an hour ago: what others and it itself lost since is told."""
    less = replace(GOOD, share=0.97)
    where, moves = board("moves", (0, GOOD)), board("moves", (0, GOOD), (70, less))
    for one in where:
        one["values"] = " ".join([*one["values"].split()[:50], "stale"])
    for one in moves:
        one["values"] = " ".join(["_"] * 50 + one["values"].split()[50:])
    series = where + listed(moves, site="berlin") + board("less", (0, GOOD), (70, less)) + board("same", (0, GOOD))
    check(
        tmp_path,
        series,
        firing("NpumonPartialFallback", 79, "instance"),
        firing(
            "NpumonPartialFallback", 85, "instance, site", {"instance": "less"}, {"instance": "moves", "site": "berlin"}
        ),
    )


def test_rules_that_fail_are_told(tmp_path: Path) -> None:
    """A rule that takes a board for unique fails on a real Prometheus, which scrapes itself and says so."""
    name = small_fleet.NORMAL[0]
    unique = 'topk by (job, instance, model) (1, group without (state) (npumon_verdict{state="unknown"}))'
    edits = {unique: 'group without (state) (npumon_verdict{state="unknown"})'}
    with (
        Expositions({name: small_fleet.PAGES[name]}) as served,
        WiredPrometheus(tmp_path, "127.0.0.1:9", rule_edits=edits) as server,
    ):
        (target,) = served.targets()
        twice = [{**target, "labels": target["labels"] | {"site": site}} for site in ("berlin", "paris")]
        (server.boards / "twice.json").write_text(json.dumps(twice), encoding="utf-8")
        server.wait(lambda: bool(server.firing("NpumonRulesFailing")), "aware of its rules")
        groups = {one["labels"]["rule_group"].rpartition(";")[2] for one in server.firing("NpumonRulesFailing")}
        assert groups == {"npumon"}
