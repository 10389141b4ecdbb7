"""A latency that goes wrong with the placement intact, and what counts as normal, on a real daemon and a real probe.

An intermittent stop of the probe by signals stands in for whatever stops an accelerator now and then: to the daemon, a
replay that was stopped took longer, and that is all it sees.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from monitor.probe import demo_model
from tests import models
from tests.e2e.running import Running, exists, npumon, running, wait_until, write_config

LONG = 400.0
"""Seconds for a dozen of checks, on a machine that has other things to do."""
EVERY = 10
"""One replay in so many is stopped."""
SLOWER = 3
"""A replay that is stopped takes so many times as long."""
SINGLE = {"intra_op_num_threads": 1, "session.intra_op.allow_spinning": "0"}
# A slow mode must reach half of this CV. Half of the replays at twice the time, which a busy machine manages, is 33 %;
# one in ten at three times is 50 %.
GATE = {"median": "100s", "cv": 0.8}


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose inference takes the simulator some 6 ms."""
    return models.saved(demo_model.build((3, 16, 32), 24), tmp_path_factory.mktemp("models"), "steady.onnx")


def go_ahead(priority: int) -> None:
    """Let this thread, and the processes it starts, run before all others, if this user may; 0 ends that.

    Where others take the processors, replays are slow without any accelerator's doing.
    """
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR if priority else os.SCHED_OTHER, os.sched_param(priority))


@contextlib.contextmanager
def undisturbed(config: Path) -> Iterator[Running]:
    """A daemon from whose probes nobody takes the processors away."""
    with contextlib.ExitStack() as stack:
        go_ahead(1)
        try:
            daemon = stack.enter_context(running("run", "-c", config))
        finally:
            go_ahead(0)
        yield daemon


@contextlib.contextmanager
def stopped_at_random(daemon: Running, model: str) -> Iterator[None]:
    """Meanwhile the daemon's probes are stopped now and then: a tenth of the replays take three times as long."""
    chance, over = random.Random(0), threading.Event()

    def disturb() -> None:
        go_ahead(2)
        while not over.is_set():
            median = daemon.metric("latency_median_seconds", model=model) or 0.006
            # It runs for the time of EVERY replays on average, and of half as many at least, before the next stop.
            over.wait(median * chance.uniform(0.5, 1.5) * EVERY)
            pids = daemon.children()
            _signal(pids, signal.SIGSTOP)
            over.wait((SLOWER - 1) * median)
            _signal(pids, signal.SIGCONT)

    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        yield
    finally:
        over.set()
        disturber.join()


def _signal(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def watched(folder: Path, path: Path, **settings: Any) -> Path:
    """A configuration whose only model can go wrong in its stability alone."""
    model = {"path": path, "replays": 30, "session": SINGLE, "gate": GATE, **settings}
    return write_config(folder, {"m": model}, "1s")


def wait_for_baseline(daemon: Running) -> float:
    """The accepted median in seconds, once there is one."""
    wait_until(lambda: daemon.metric("baseline_median_seconds", model="m") is not None, "a baseline", LONG)
    return daemon.metric("baseline_median_seconds", model="m") or 0.0


def wait_for(daemon: Running, event: str) -> dict[str, Any]:
    """The first line of this name, once it has come."""
    wait_until(lambda: bool(daemon.told(event, "m")), event, LONG)
    return daemon.told(event, "m")[0]


def test_a_tenth_of_the_replays_at_three_times(tmp_path: Path, steady: Path) -> None:
    """``latency_unstable`` names a slow accelerator, a fresh audit found nothing moved, and it ends with its reason."""
    with undisturbed(watched(tmp_path, steady)) as daemon:
        baseline = wait_for_baseline(daemon)
        assert daemon.metric("verdict", model="m", state="healthy") == 1
        assert not daemon.told("latency_unstable")
        before = daemon.children()
        with stopped_at_random(daemon, "m"):
            raised = wait_for(daemon, "latency_unstable")
        assert (raised["cause"], raised["level"], raised["npu_flops_ratio"]) == ("slow_accelerator", "warning", 1.0)
        assert re.fullmatch(r"m-unstable-[0-9a-f]+", raised["id"])
        assert raised["baseline_seconds"] == baseline
        said = re.match(r"([\d.]+) % of the replays take ([\d.]+) times as long as the others, .*", raised["reason"])
        assert said, raised["reason"]
        assert 3 < float(said[1]) < 40
        assert 1.5 < float(said[2]) < 6
        assert "; a fresh audit found the placement intact" in raised["reason"]
        assert not before & daemon.children(), "the fresh audit made a new session"
        wait_until(lambda: daemon.metric("incident", model="m", kind="unstable") == 1, "the incident's gauge")
        assert daemon.metric("verdict", model="m", state="degraded") == 1
        assert daemon.metric("verdict_cause", model="m", cause="slow_accelerator") == 1

        recovered = wait_for(daemon, "latency_recovered")
        assert recovered["id"] == raised["id"]
        daemon.wait_checks("m")
        assert daemon.metric("incident", model="m", kind="unstable") == 0
        assert daemon.metric("verdict", model="m", state="healthy") == 1
        assert len(daemon.told("latency_unstable")) == len(daemon.told("latency_recovered")) == 1
        assert not [line for line in daemon.lines if line["event"].startswith(("fallback", "check_f"))]


def test_a_deep_second_look(tmp_path: Path, steady: Path) -> None:
    """With ``second_look = "deep"`` the accelerator's own profile is in the reason; the commands show the incident."""
    config = watched(tmp_path, steady, second_look="deep")
    with undisturbed(config) as daemon:
        wait_for_baseline(daemon)
        with stopped_at_random(daemon, "m"):
            raised = wait_for(daemon, "latency_unstable")
        looked = r"; a fresh audit found the placement intact; of [\d.]+ ms the accelerator takes [\d.]+ ms"
        assert re.search(looked, raised["reason"]), raised["reason"]
        (line,) = (line for line in npumon("events", "-c", config).out.splitlines() if raised["id"] in line)
        assert "latency_unstable" in line
        explained = npumon("explain", "-c", config, raised["id"]).out
        assert explained.startswith(f"npumon incident {raised['id']}\n")
        assert "latency_unstable" in explained
        assert raised["reason"][:60] in explained
        wait_until(lambda: any(map(exists, daemon.children())), "the probe is there again after the profile")


def test_baselines_are_accepted_and_forgotten_under_a_running_daemon(tmp_path: Path, good: Path) -> None:
    """A level is accepted before it is learned, and forgotten again, each within one check and without a restart."""
    config = write_config(tmp_path, {"m": {"path": good, "session": SINGLE}}, "4s")

    def shown() -> list[dict[str, Any]]:
        (document,) = json.loads(npumon("baseline", "show", "-c", config, "--json").out)
        found: list[dict[str, Any]] = document["baselines"]
        return found

    with running("run", "-c", config) as daemon:
        daemon.wait_checks("m", more=2)
        assert daemon.metric("baseline_median_seconds", model="m") is None
        assert [one["state"] for one in shown()] == ["learning"]
        assert npumon("baseline", "accept", "-c", config, "m").code == 0
        daemon.wait_checks("m", more=2)
        assert daemon.checks("m") < 10, "it was not learned by itself"
        accepted = daemon.metric("baseline_median_seconds", model="m")
        assert accepted is not None
        assert accepted > 0
        assert daemon.metric("gate_median_seconds", model="m") == pytest.approx(1.25 * accepted)
        assert [(one["state"], one["counts"]) for one in shown()] == [("accepted", True)]
        assert npumon("baseline", "forget", "-c", config, "m").code == 0
        daemon.wait_checks("m", more=2)
        assert daemon.metric("baseline_median_seconds", model="m") is None
        assert daemon.metric("gate_median_seconds", model="m") is None
        assert [one["state"] for one in shown()] == ["learning"]
