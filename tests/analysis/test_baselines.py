"""What counts as normal: learned once, for one identity, and never replaced by something worse on the quiet."""

from __future__ import annotations

import msgspec
import pytest

from monitor.analysis import baselines
from monitor.analysis.baselines import LEARNING, MOST, SLACK, counting, limit, present
from monitor.config import Gate
from monitor.records import Board, CheckResult, Failure, OpShare, Runtime, Samples
from tests.analysis.course import Course, Healthy, measured, steady
from tests.analysis.evidence import BOARD, RUNTIME, latency, op, placement, result

NEWER = msgspec.structs.replace(RUNTIME, backend_version="v2.60.0")
DOWN = msgspec.structs.replace(RUNTIME, backend_version=None)
OPS = (op("gather", 0.01), op("selu", 0.02))
FALLEN = {
    "verdict": "fallback",
    "cause": "accelerator_unavailable",
    "placement": placement(0.0, op("a", 1.0), accelerator=0),
    "runtime": DOWN,
}


def at(median: float, *ops: OpShare, runtime: Runtime = RUNTIME, sha256: str = "0" * 64) -> CheckResult:
    """A check whose replays all take this long in seconds."""
    return result(placement=placement(1.0, *ops), latency=latency(median), runtime=runtime, model_sha256=sha256)


def learned(median: float = 0.01, gate: Gate | None = None) -> Course:
    """A model whose baseline is accepted."""
    course = Course(gate)
    for _ in range(LEARNING):
        course.take(at(median))
    return course


def test_a_baseline_is_learned_from_healthy_checks() -> None:
    """After so many of them their median counts, and the gate is 1.25 times that; before, there is none."""
    course = Course()
    medians = [0.010 + 0.0001 * number for number in range(LEARNING)]
    for number, median in enumerate(medians):
        assert limit(course.gate, course.state) is None
        assert [len(one.medians) for one in course.state.baselines] == [number][: bool(number)]
        course.take(at(median, *OPS))
    found = counting(course.state)
    assert found is not None
    assert found.median_seconds == pytest.approx(0.01045)
    assert found.accepted == course.now - 60
    assert (found.npu_flops_ratio, found.cpu_ops) == (1.0, ("gather", "selu"))
    assert limit(course.gate, course.state) == pytest.approx(SLACK * 0.01045)
    assert course.events == []


def test_only_healthy_checks_teach() -> None:
    """A fallback, wrong outputs, a failed and an undecided check and an audit without replays are no normal state."""
    course = Course()
    course.take(at(0.01))
    for one in (
        result(**FALLEN, latency=latency(0.5)),
        result(verdict="degraded", reason="wrong outputs", placement=placement(1.0), latency=latency(0.5)),
        result(verdict="unknown", error=Failure("probe_crashed", "it died"), placement=None),
        result(verdict="unknown", placement=placement(0.9), latency=latency(0.5)),
        result(placement=placement(1.0)),
    ):
        course.take(one)
    now = present(course.state)
    assert now is not None
    assert now.medians == (0.01,)


def test_an_unsteady_model_is_not_learned() -> None:
    """A model that falls back now and then from its first check on gets no baseline until that is over."""
    course = Course()
    course.checks(40, Healthy(1).slow(0.3))
    assert [one.median_seconds for one in course.state.baselines] == [None]
    assert course.verdicts[-1] == "degraded"
    course.checks(30, Healthy(2))
    assert course.verdicts[-1] == "healthy"
    assert limit(course.gate, course.state) == pytest.approx(SLACK * 0.01, rel=0.05)


def test_a_configured_gate_is_the_limit() -> None:
    """``gate.median`` goes before the baseline."""
    course = learned(gate=Gate(median=0.02))
    assert counting(course.state) is not None
    assert limit(course.gate, course.state) == 0.02


def test_what_a_model_always_did_is_learned_when_it_leaves_the_windows() -> None:
    """Slow replays of healthy checks enter the rates once they are too old to raise anything."""
    course = Course()
    course.checks(60, Healthy(1).slow(0.003))
    assert present(course.state).rates.rounds == 0  # type: ignore[union-attr]
    course.checks(20, Healthy(2))
    assert present(course.state).rates.rounds >= 20  # type: ignore[union-attr]


# ------------------------------------------------------------------------------------------- another identity


def test_another_backend_is_told_with_its_comparison() -> None:
    """An update starts another baseline, and one line says what it did to the latency and to the ops."""
    course = Course()
    old = msgspec.structs.replace(RUNTIME, backend_version="v2.48.0")
    for _ in range(LEARNING):
        course.take(at(0.01, runtime=old))
    found = course.take(at(0.0131, *OPS, runtime=RUNTIME))
    assert [event.event for event in found.events] == ["runtime_changed", "latency_shifted"]
    assert found.events[0].reason == "backend v2.48.0 -> v2.51.0: median +31 %, 2 more ops on the CPU"
    assert found.events[0].level == "warning"
    assert found.state.baselines[0].comparison == found.events[0].reason
    assert [one.identity.runtime.split()[-1] for one in found.state.baselines] == ["v2.51.0", "v2.48.0"]


def test_a_worse_baseline_waits_and_the_old_gate_goes_on_counting() -> None:
    """A slow update does not become the new normal by lasting; accepting it ends the incident."""
    course = learned()
    for _ in range(50):
        course.take(at(0.0131, runtime=NEWER))
    assert set(course.verdicts[LEARNING:]) == {"degraded"}
    assert course.names == ["runtime_changed", "latency_shifted"]
    assert course.events[1].reason == (
        "the median of 13.1 ms exceeds its gate of 12.5 ms; the baseline is 10 ms, with the placement intact"
    )
    assert course.events[1].baseline_seconds == 0.01
    assert counting(course.state) is course.state.baselines[1]
    assert limit(course.gate, course.state) == pytest.approx(0.0125)
    waiting = course.state.baselines[0]
    assert (waiting.median_seconds, waiting.accepted) == (0.0131, None)


def test_a_worse_baseline_within_a_configured_gate_waits_too() -> None:
    """Where the configured gate is wider, the new level is learned, but the old one stays what is compared with."""
    course = learned(gate=Gate(median=0.05))
    for _ in range(50):
        course.take(at(0.0131, runtime=NEWER))
    assert course.verdicts == ["healthy"] * 60
    waiting, old = course.state.baselines
    assert (waiting.median_seconds, waiting.accepted) == (0.0131, None)
    assert counting(course.state) is old


def test_a_baseline_that_is_no_worse_is_accepted_by_itself() -> None:
    """An update within the gate is the new normal after its own healthy checks."""
    course = learned()
    for _ in range(LEARNING):
        assert limit(course.gate, course.state) == pytest.approx(0.0125)
        course.take(at(0.008, runtime=NEWER))
    assert limit(course.gate, course.state) == pytest.approx(0.01)
    assert course.names == ["runtime_changed"]
    assert course.events[0].reason == "backend v2.51.0 -> v2.60.0: median -20 %"


def test_a_rollback_finds_its_baseline_again() -> None:
    """What was learned before an update counts from the first check after it was undone."""
    course = learned()
    for _ in range(LEARNING):
        course.take(at(0.008, runtime=NEWER))
    course.take(at(0.01))
    assert limit(course.gate, course.state) == pytest.approx(0.0125)
    assert course.names == ["runtime_changed", "runtime_changed"]
    assert course.events[1].reason == "backend v2.60.0 -> v2.51.0: median +25 %"
    assert len(course.state.baselines) == 2


def test_another_model_file_is_told() -> None:
    """A deployed file that changed is told with both hashes, and is not held against the old file's latency."""
    course = learned()
    course.take(result(verdict="unknown", error=Failure("probe_crashed", "it died"), runtime=None, model_sha256=None))
    for _ in range(3):
        course.take(at(0.05, sha256="1" * 64))
    assert course.names == ["check_failed", "check_recovered", "model_changed"]
    assert course.events[-1].reason == f"model {'0' * 12} -> {'1' * 12}: median +400 %"
    assert course.events[-1].level == "info"
    assert limit(course.gate, course.state) is None
    assert course.verdicts[-1] == "healthy"


@pytest.mark.parametrize(
    ("fields", "board", "reason"),
    [
        ({"settings": {"dims.batch": "4"}}, BOARD, "dims.batch unset -> 4"),
        (
            {"runtime": msgspec.structs.replace(RUNTIME, options={"soc_model": "60"})},
            BOARD,
            "soc_model unset -> 60",
        ),
        ({"samples": Samples("files", 3)}, BOARD, "samples synthetic -> files"),
        ({}, msgspec.structs.replace(BOARD, soc="QCS6490"), "SoC unknown -> QCS6490"),
        (
            {"runtime": msgspec.structs.replace(RUNTIME, onnxruntime="1.33.0", provider_version="2.8.0")},
            BOARD,
            "onnxruntime 1.32.0 -> 1.33.0, qnn 2.7.0 -> 2.8.0",
        ),
    ],
)
def test_what_changed_is_named(fields: dict[str, object], board: Board, reason: str) -> None:
    """Settings, options, samples, SoC and versions make an identity; the line says which of them changed."""
    course = learned()
    course.board = board
    (event,) = course.take(measured(latency(0.01), **fields)).events
    assert (event.event, event.reason) == ("runtime_changed", f"{reason}: median +0 %")


def test_another_order_of_settings_is_no_other_identity() -> None:
    """Settings are compared as a whole."""
    course = Course()
    course.take(measured(latency(), settings={"a": "1", "b": "2"}))
    course.take(measured(latency(), settings={"b": "2", "a": "1"}))
    assert course.events == []


def test_a_backend_that_did_not_come_up_is_no_other_runtime() -> None:
    """An accelerator that is away for a while has told no version: its baseline stays the present one."""
    course = learned()
    for _ in range(3):
        course.take(result(**FALLEN, latency=latency(0.5)))
    course.take(at(0.01))
    assert course.names == ["fallback_detected", "fallback_cleared"]
    assert len(course.state.baselines) == 1


def test_a_backend_that_comes_up_later_is_no_other_runtime() -> None:
    """A board that boots before its accelerator is told nothing but the fallback, and keeps no empty baseline."""
    course = Course()
    course.take(result(**FALLEN, latency=latency(0.5)))
    for _ in range(LEARNING):
        course.take(at(0.01))
    assert course.names == ["fallback_detected", "fallback_cleared"]
    assert len(course.state.baselines) == 1
    assert limit(course.gate, course.state) == pytest.approx(0.0125)


def test_an_update_during_an_outage_is_told_once() -> None:
    """The package's new version is told at once; the backend's, which comes up later, completes it."""
    course = learned()
    updated = msgspec.structs.replace(DOWN, provider_version="2.8.0")
    course.take(result(**{**FALLEN, "runtime": updated}, latency=latency(0.5)))
    course.take(at(0.01, runtime=msgspec.structs.replace(updated, backend_version="v2.60.0")))
    assert course.names == ["runtime_changed", "fallback_detected", "fallback_cleared"]
    assert course.events[0].reason == "qnn 2.7.0 -> 2.8.0: median +4900 %, 1 more op on the CPU"
    new, old = course.state.baselines
    assert new.identity.runtime == "onnxruntime 1.32.0, qnn 2.8.0, backend v2.60.0"
    assert new.comparison == course.events[0].reason
    assert counting(course.state) is old


def test_an_accepted_baseline_outlives_the_others() -> None:
    """However often the settings change, what was accepted is kept as long as there is room for anything."""
    course = learned()
    for number in range(3 * MOST):
        course.take(measured(latency(0.01), settings={"dims.batch": str(number)}))
        assert len(course.state.baselines) <= MOST
    assert [one.accepted is not None for one in course.state.baselines] == [False] * (MOST - 1) + [True]
    assert limit(course.gate, course.state) == pytest.approx(0.0125)
    assert [one.identity.settings["dims.batch"] for one in course.state.baselines[:-1]] == [
        str(3 * MOST - 1 - number) for number in range(MOST - 1)
    ]


# --------------------------------------------------------------------------------------------------- requests


def test_accepting_takes_the_present_level() -> None:
    """The median of the last checks is normal from then on, and is learned no further."""
    course = Course()
    course.checks(3, steady(0.012))
    course.state = baselines.accept(course.state, 5.0)
    now = counting(course.state)
    assert now is not None
    assert (now.median_seconds, now.accepted) == (0.012, 5.0)
    assert course.state.digests == ()
    course.checks(LEARNING, steady(0.011))
    assert counting(course.state) == now


def test_accepting_an_older_level() -> None:
    """The level of a baseline that is named counts for the present identity."""
    course = learned()
    old = course.state.baselines[0]
    course.take(at(0.0131, runtime=NEWER))
    accepted = baselines.accept(course.state, 5.0, old.id)
    assert accepted.baselines[0].median_seconds == old.median_seconds
    assert accepted.baselines[0].identity.runtime.endswith("v2.60.0")
    assert accepted.baselines[1] == old


def test_nothing_measured_is_nothing_to_accept() -> None:
    """Without a level, or with the name of a baseline that is gone, nothing changes."""
    course = Course()
    assert baselines.accept(course.state, 5.0) == course.state
    course.take(result(**FALLEN, latency=latency(0.5)))
    assert baselines.accept(course.state, 5.0) == course.state
    course.checks(3, steady(0.012))
    assert baselines.accept(course.state, 5.0, "gone") == course.state


def test_what_was_accepted_unseen_has_no_ops_to_compare_with() -> None:
    """A level that was accepted while no check was healthy says nothing of the ops on the CPU."""
    course = Course(Gate(median=0.005))
    course.checks(5, steady(0.01))
    course.state = baselines.accept(course.state, 5.0)
    (event,) = course.take(at(0.01, *OPS, runtime=NEWER)).events
    assert event.reason == "backend v2.51.0 -> v2.60.0: median +0 %"


def test_forgetting() -> None:
    """One baseline or all; the present one is learned anew from then on, an older one leaves the present alone."""
    course = learned()
    for _ in range(LEARNING):
        course.take(at(0.008, runtime=NEWER))
    new, old = course.state.baselines
    without_old = baselines.forget(course.state, old.id)
    assert (without_old.baselines, without_old.digests) == ((new,), course.state.digests)
    without_new = baselines.forget(course.state, new.id)
    assert (without_new.baselines, without_new.digests) == ((old,), ())
    assert baselines.forget(course.state).baselines == ()
    assert baselines.forget(course.state, "gone") == course.state
    course.state = baselines.forget(course.state)
    for _ in range(LEARNING):
        assert limit(course.gate, course.state) is None
        course.take(at(0.02, runtime=NEWER))
    assert limit(course.gate, course.state) == pytest.approx(0.025)
