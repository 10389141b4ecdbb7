"""Four hundred boards with five models each, scraped for real: a rollout breaks one SoC, boards vanish, one board lies.

The examples of ``grafana/`` are in force, in a hurry (see ``tests/grafana/wired.py``): scrapes and rules every 10 s and
not every 30, minutes of ``for`` as seconds; of the times in expressions two that are 15 minutes are 30 s, and one that
is 5 minutes is 15 s. What rules look at in the past (an hour, 6 hours, a day ago) is there, in blocks that promtool
made. ``NPUMON_FLEET=80`` tries it with fewer boards; with fewer than that, an SoC's share of them is no cohort.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.grafana.fleet import (
    FALLEN_FLOPS,
    MODELS,
    NEW,
    Condition,
    Fleet,
    SimulatedBoard,
    file_of,
    history,
    worst_board,
)
from tests.grafana.test_alertmanager import Webhook
from tests.grafana.test_rules import ALWAYS
from tests.grafana.wired import FIELD_SECONDS, Alertmanager, WiredPrometheus, eventually, receiving

pytestmark = pytest.mark.slow

BOARDS = int(os.environ.get("NPUMON_FLEET", "400"))
SECONDS = 10
"""Between two scrapes of a board, and between two evaluations of the rules."""
HURRY = {"group_wait: 30s": "group_wait: 10s"}
QUARTERS = {
    "time() - instance:npumon_seen:timestamp_seconds > 900": "time() - instance:npumon_seen:timestamp_seconds > 30",
    "_first_seen:timestamp_seconds < time() - 900": "_first_seen:timestamp_seconds < time() - 30",
    "> time() - 300": "> time() - 15",
}
EXPECTED = {
    "NpumonRolloutRegression",
    "NpumonFallback",
    "NpumonBoardUnlikeCohort",
    "NpumonPartialFallback",
    "NpumonDown",
    "NpumonBoardSilent",
}

ROLLED_OUT = "d2" * 32
MODEL, BROKEN = "segmenter", "SA8295P"
LIAR_MODEL = "detector"


class Plan(NamedTuple):
    """Which boards, by address, something happens to."""

    rollout: list[str]
    broken: list[str]
    down: list[str]
    removed: list[str]
    liar: str
    worst: str


def plan(boards: list[SimulatedBoard], worst: SimulatedBoard) -> Plan:
    """Half of the boards get the new model file; of the others, some fall silent, and one lies."""
    rollout = [board.address for board in boards if board.sdk is NEW][: len(boards) // 2]
    broken = [board.address for board in boards if board.address in rollout and board.soc == BROKEN]
    rest = [board for board in boards if board.address not in rollout]
    down = [board.address for board in rest[: len(boards) // 40]]
    removed = [board.address for board in rest[len(down) : len(down) + len(boards) // 80 + 1]]
    liar = next(board.address for board in rest if board.address not in {*down, *removed} and board.sdk is NEW)
    return Plan(rollout, broken, down, removed, liar, worst.address)


class Scene(NamedTuple):
    """What is there to be looked at once all has happened."""

    server: WiredPrometheus
    webhook: Webhook
    plan: Plan
    before: set[str]


def happen(fleet: Fleet, what: Plan) -> None:
    """The rollout, on all SoCs at once; the boards that stop answering; the one that lies. On the fleet's thread."""
    bad = Condition(ROLLED_OUT, 3.1, FALLEN_FLOPS, fallen=True)
    for address in what.rollout:
        fleet.boards[address].become(MODEL, bad if address in what.broken else Condition(ROLLED_OUT))
    liar = fleet.boards[what.liar]
    liar.become(LIAR_MODEL, liar.conditions[LIAR_MODEL]._replace(slower=1.6, fallback_flops={"Resize": 0.09}))
    fleet.silence([*what.down, *what.removed])


def names(server: WiredPrometheus, worst: str) -> set[str]:
    """The alerts that fire, without those of the board that is there for its number of series."""
    return {one["labels"]["alertname"] for one in server.firing() if not of(one["labels"], worst)}


def of(labels: dict[str, str], worst: str) -> bool:
    """Whether an alert is about that board."""
    return labels.get("instance") == worst or labels.get("soc") == "WORST"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The fleet, before and after."""
    directory = tmp_path_factory.mktemp("fleet")
    boards = [SimulatedBoard(number) for number in range(BOARDS)]
    worst = worst_board(BOARDS)
    what = plan(boards, worst)
    history(boards, directory / "data")
    with (
        receiving() as webhook,
        Fleet([*boards, worst]) as fleet,
        Alertmanager(directory, webhook.port, HURRY) as alertmanager,
        WiredPrometheus(directory, alertmanager.address, f"{SECONDS}s", QUARTERS) as server,
    ):
        listed = server.boards / "fleet.json"
        listed.write_text(json.dumps(fleet.targets()), encoding="utf-8")
        server.wait(lambda: server.now('count(up{job="npumon"} == 1)') == [({}, BOARDS + 1)], "scraped whole", 90)
        time.sleep(5 * SECONDS)  # whatever is new to a Prometheus that has just begun would have fired
        before = names(server, what.worst)
        fleet.do(lambda: happen(fleet, what))
        listed.write_text(json.dumps(fleet.targets(without=what.removed)), encoding="utf-8")
        eventually(
            lambda: names(server, what.worst) >= EXPECTED, lambda: f"{EXPECTED}: {names(server, what.worst)}", 150
        )
        time.sleep(3 * SECONDS)
        yield Scene(server, webhook, what, before)


def test_a_mixed_fleet_is_quiet_before_anything_happens(scene: Scene) -> None:
    """Four SoCs and two SDKs of different speed, all new to Prometheus: nothing fires."""
    assert scene.before == set()


def test_nothing_else_fires(scene: Scene) -> None:
    """The kinds of alert that are expected, and no other."""
    assert names(scene.server, scene.plan.worst) == EXPECTED


def firing(scene: Scene, alert: str) -> list[dict[str, str]]:
    """The labels of the alerts of one name that fire, but those of the board that is there for its number of series."""
    found = (one["labels"] for one in scene.server.firing(alert))
    return [labels for labels in found if not of(labels, scene.plan.worst)]


def instances(scene: Scene, alert: str) -> set[str]:
    """The boards that an alert fires for."""
    return {labels["instance"] for labels in firing(scene, alert)}


def test_the_rollout_is_told_for_the_soc_that_it_broke_and_only_there(scene: Scene) -> None:
    """All SoCs got the file; the alert names the one, with the file that it had before and the one that it has now."""
    alerts = firing(scene, "NpumonRolloutRegression")
    assert {one["signal"] for one in alerts} == {"unhealthy", "share", "median"}
    for one in alerts:
        assert (one["model"], one["soc"], one["sha256"]) == (MODEL, BROKEN, ROLLED_OUT)
        assert one["reference_sha256"] == file_of(MODEL)
        assert one["backend_version"] == NEW.backend_version
    assert instances(scene, "NpumonFallback") == set(scene.plan.broken)
    assert {labels["op_type"] for labels in firing(scene, "NpumonFallback")} == {"Conv"}


def test_boards_that_vanished_are_found(scene: Scene) -> None:
    """Those that refuse a scrape are down, those that left service discovery are silent, and no board is both."""
    assert instances(scene, "NpumonDown") == set(scene.plan.down)
    assert instances(scene, "NpumonBoardSilent") == set(scene.plan.removed)


def test_the_liar_is_found(scene: Scene) -> None:
    """A board that calls itself healthy is found by its peers, and by what it was a day ago; no other board is."""
    healthy = f'npumon_verdict{{instance="{scene.plan.liar}", state="healthy"}} == 1'
    assert len(scene.server.now(healthy)) == len(MODELS)
    told = firing(scene, "NpumonBoardUnlikeCohort")
    found = {(one["instance"], one["model"], one["signal"]) for one in told}
    liar = (scene.plan.liar, LIAR_MODEL)
    assert found == {(*liar, "slower"), (*liar, "less on the accelerator")}
    assert {(one["instance"], one["model"]) for one in firing(scene, "NpumonPartialFallback")} == {liar}


def test_hundreds_of_alerts_are_few_notifications(scene: Scene) -> None:
    """Alertmanager sends one message for each kind of trouble and model, however many boards have it."""
    bodies = [body for _, body in scene.webhook.notifications]
    bodies = [body for body in bodies if body["groupLabels"]["alertname"] != ALWAYS]
    about = [body for body in bodies if not all(of(alert["labels"], scene.plan.worst) for alert in body["alerts"])]
    groups = [(body["groupLabels"]["alertname"], body["groupLabels"].get("model")) for body in about]
    assert len(groups) == len(set(groups))
    assert ("NpumonRolloutRegression", MODEL) in groups  # if it was first, it keeps back the fallbacks of its boards
    assert {alert for alert, _ in groups} <= EXPECTED


def test_series_per_board_and_model_are_within_the_budget(scene: Scene) -> None:
    """At most 100 of each model on each board, the worst that there can be included, and few for the board itself."""
    ((_, most),) = scene.server.now('max(count by (instance, model) ({__name__=~"npumon_.+", model!=""}))')
    ((_, worst),) = scene.server.now(
        f'max(count by (model) ({{__name__=~"npumon_.+", instance="{scene.plan.worst}", model!=""}}))'
    )
    ((_, scraped),) = scene.server.now('max(scrape_samples_scraped{job="npumon"})')
    assert most == worst <= 100
    assert scraped <= 100 * len(MODELS) + 50


def test_rules_take_less_than_a_tenth_of_their_interval(scene: Scene) -> None:
    """A round of all rules, one group after the other, takes less than a tenth of the example's 30 s.

    The clock also counts what other programs do meanwhile. The kernel knows how long Prometheus' threads were ready to
    run and got no CPU; that share is taken off, so that a busy machine and an idle one give about the same.
    """
    ran, waited = scene.server.scheduled()
    clock = []
    for _ in range(6):
        time.sleep(SECONDS)
        clock.append(sum(scene.server.metrics("prometheus_rule_group_last_duration_seconds").values()))
    ran, waited = (after - before for after, before in zip(scene.server.scheduled(), (ran, waited), strict=True))
    share = ran / (ran + waited)
    took = statistics.median(clock) * share
    print(f"rules: {took:.2f} s; by the clock {statistics.median(clock):.2f} s, {1 - share:.0%} of it without a CPU")
    assert sum(scene.server.metrics("prometheus_rule_evaluation_failures_total").values()) == 0
    assert took < 0.1 * FIELD_SECONDS
