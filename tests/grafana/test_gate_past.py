"""``npumon gate`` over hours that a real Prometheus remembers: what is there twice, repeated, mixed up or missing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.running import Done, npumon
from tests.grafana.past import MODEL, Past, Told, always
from tests.grafana.prometheus_server import Prometheus
from tests.grafana.test_victoria import Victoria, programs  # noqa: F401 - a fixture

MINUTES = 180
WINDOW = ("--window", "2h", "--soak", "30m")
GOOD, FALLEN = Told(), Told(state="fallback", ops={"Conv": 0.9})


def until(minutes: float, before: Told | None, after: Told | None) -> Any:
    """One thing until so many minutes ago, then the other."""
    return lambda ago: before if ago > minutes else after


def now_and_then(ago: float) -> Told | None:
    """Silent for half of each half hour."""
    return GOOD if ago % 30 < 15 else None


def hung(ago: float) -> Told:
    """A daemon that stopped an hour and a half ago, whose last words are repeated."""
    return GOOD._replace(checks=MINUTES - max(ago, 90))


def waiting(ago: float) -> Told:
    """A model that has been waiting for its budget for an hour."""
    return GOOD._replace(checks=MINUTES - max(ago, 60), postponed=float(ago < 65))


def whole_past() -> Past:
    """Some hours of several rings of boards."""
    past = Past(MINUTES)
    past.boards("stable", 5, always())
    # One of two replicas of Prometheus was away for an hour.
    past.boards("replicas", 5, until(60, GOOD, None), replica="a")
    past.boards("replicas", 5, always(), replica="b")
    for replica in ("a", "b"):
        past.boards("gaps", 5, now_and_then, replica=replica)
    past.boards("apart", 5, always(), replica="a")
    past.boards("apart", 5, until(70, GOOD, FALLEN), replica="b")
    past.boards("moved", 5, until(50, GOOD, None), site="berlin")
    past.boards("moved", 5, until(50, None, GOOD), site="paris")
    past.boards("hung", 5, hung)
    past.boards("waiting", 5, waiting)
    past.boards("untold", 5, always(GOOD._replace(ops=None)))
    past.boards("mixed", 5, until(20, GOOD, None), site="berlin")
    past.boards("mixed", 5, always(GOOD._replace(hostname="paris")), site="paris")
    past.boards("renamed", 5, until(50, GOOD, GOOD._replace(hostname="another")))
    past.boards("labelled", 5, always(), model="kit-3")
    return past


@pytest.fixture(scope="module", params=["prometheus", pytest.param("victoria", marks=pytest.mark.slow)])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus, or a VictoriaMetrics, that remembers it all."""
    directory, past = tmp_path_factory.mktemp("past"), whole_past()
    if request.param == "victoria":
        with Victoria(directory, [], request.getfixturevalue("programs")) as store:
            past.hand(store.url)
            yield store
        return
    past.write(directory / "data")
    with Prometheus(directory, []) as running:
        yield running


def gate(server: Prometheus, ring: str, *more: str) -> Done:
    """The gate over one ring, held against the stable one."""
    match = ("--match", f'ring="{ring}"', "--baseline-match", 'ring="stable"')
    return npumon("gate", "--prometheus", server.url, *match, *WINDOW, "--json", *more)


def criteria(done: Done) -> dict[str, dict[str, Any]]:
    """The criteria by name."""
    return {one["name"]: one for one in json.loads(done.out)["criteria"]}


def outcomes(done: Done) -> dict[str, str]:
    """Those that do not pass."""
    return {name: one["outcome"] for name, one in criteria(done).items() if one["outcome"] != "pass"}


@pytest.mark.parametrize("ring", ["replicas", "moved", "renamed", "waiting"])
def test_what_is_well_passes(server: Prometheus, ring: str) -> None:
    """Also twice, with one replica away; with another target label or host name since; and with a check put off."""
    done = gate(server, ring)
    assert (done.code, done.err, outcomes(done)) == (0, "", {}), done.out
    found = criteria(done)
    assert found["boards"]["reason"] == "5 of 5 boards measured"
    assert found["cohorts"]["cohorts"][0]["boards"] == 5
    # A step more or less, and never twice the window.
    assert found["soak"]["measured"] == pytest.approx(2 * 3600, rel=0.02)


def test_time_that_is_there_twice_counts_once(server: Prometheus) -> None:
    """Boards that were silent for half of the time, in both replicas: the rest twice is not all of it."""
    done = gate(server, "gaps")
    assert done.code == 3
    assert outcomes(done)["healthy"] == "unmeasured"
    assert criteria(done)["soak"]["measured"] < 0.75 * 2 * 3600


def test_boards_are_healthy_where_all_that_is_told_of_them_says_so(server: Prometheus) -> None:
    """Of two listings one says for hours that it fell back: it did."""
    done = gate(server, "apart")
    assert done.code == 1
    found = criteria(done)
    assert {found[name]["outcome"] for name in ("healthy", "cohorts", "ops")} == {"fail"}
    assert found["healthy"]["measured"] < 0.5


def test_what_is_only_repeated_is_stale(server: Prometheus) -> None:
    """A textfile or an agent may repeat the last words of a daemon that is gone: no check was counted for hours."""
    done = gate(server, "hung")
    assert done.code == 3
    assert criteria(done)["boards"]["reason"] == "0 of 5 boards measured; 5 with stale checks"
    assert {one["why"] for one in json.loads(done.out)["unmeasured"]} == {"stale"}
    assert criteria(done)["soak"]["measured"] < 75 * 60


def test_ops_that_nobody_tells_of_are_no_pass(server: Prometheus) -> None:
    """Where a fleet's Prometheus does not keep what fell back, nothing new is not known."""
    done = gate(server, "untold")
    assert (done.code, outcomes(done)) == (3, {"ops": "unmeasured"})


def test_boards_that_cannot_be_told_apart_are_refused(server: Prometheus) -> None:
    """Boards of two sites with the same addresses: one of each fell silent, and the other would have stood for it."""
    done = gate(server, "mixed")
    told = (
        f"{server.url}: several boards, by their host names, are all npumon/mixed-0, and others too; choose one of "
        "them with more matchers, or give each an instance of its own\n"
    )
    assert (done.code, done.out, done.err) == (2, "", told)
    one = npumon("gate", "--prometheus", server.url, "--match", 'ring="mixed", site="berlin"', *WINDOW, "--json")
    assert one.code == 3
    assert criteria(one)["boards"]["reason"] == "0 of 5 boards measured; 5 silent"


def test_models_whose_names_are_hidden_are_refused(server: Prometheus) -> None:
    """Targets with a label model of their own make one of all models of a board."""
    done = gate(server, "labelled")
    told = (
        f"{server.url}: targets have a label model (kit-3), which hides the models' names; give targets' own label "
        "another name, or scrape with honor_labels\n"
    )
    assert (done.code, done.out, done.err) == (2, "", told)
    assert MODEL not in done.err
