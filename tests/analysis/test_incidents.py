"""Incidents: raised once, changed when they change, cleared when they are over, over restarts and failures."""

from __future__ import annotations

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.analysis.incidents import MOST_CULPRITS, MOST_OPS, advance
from monitor.outputs.events import schema, to_json
from monitor.records import CheckResult, Event, Failure, ModelState, OpShare
from tests.analysis.evidence import BOARD, RUNTIME, latency, op, placement, result

START = 1_700_000_000.0
VALIDATOR = jsonschema.Draft202012Validator(schema())
BROKEN = Failure("probe_crashed", "the probe died of SIGSEGV")
HUNG = Failure("probe_timeout", "the probe did not answer Replay within 30 s")

HEALTHY = result(placement=placement(1.0), latency=latency())


def fallen(*ops: OpShare, cause: str = "op_unsupported") -> CheckResult:
    """A check that found a fallback."""
    return result(verdict="fallback", cause=cause, reason="fell", placement=placement(0.5, *ops), latency=latency())


def degraded(breach: str) -> CheckResult:
    """A check that found the latency wrong."""
    return result(verdict="degraded", cause="slow_accelerator", reason="slow", breach=breach, placement=placement(1.0))


def failure(error: Failure) -> CheckResult:
    """A check that could not measure."""
    return result(verdict="unknown", reason=error.detail, error=error, model_sha256=None, runtime=None, samples=None)


UNDECIDED = result(verdict="unknown", reason="cannot be attributed", placement=placement(0.9, op("a", 0.02)))
SELU = fallen(op("selu", 0.5, time=0.1))


def played(*results: CheckResult) -> list[Event]:
    """The events of these checks, a minute apart; each is valid, and every state survives a restart."""
    return [event for events in steps(*results) for event in events]


def steps(*results: CheckResult) -> list[tuple[Event, ...]]:
    """The events of each of these checks."""
    state, told = ModelState("m"), []
    for number, one in enumerate(results):
        now = msgspec.structs.replace(one, timestamp=START + 60 * number)
        state, events = advance(state, now, BOARD)
        for event in events:
            VALIDATOR.validate(to_json(event))
            assert (event.timestamp, event.model, event.board) == (now.timestamp, "m", BOARD)
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=ModelState)
        told.append(events)
    return told


def names(events: list[Event]) -> list[str]:
    """What happened."""
    return [event.event for event in events]


def test_a_healthy_model_is_silent() -> None:
    """Nothing is logged while nothing changes."""
    assert played(HEALTHY, HEALTHY, HEALTHY) == []


def test_a_fallback_is_raised_once() -> None:
    """However long it lasts, one line tells of it, with its ops, its cause and what was measured."""
    (event,) = played(HEALTHY, SELU, SELU, SELU)
    assert (event.event, event.level, event.cause, event.reason) == (
        "fallback_detected",
        "error",
        "op_unsupported",
        "fell",
    )
    assert [o.node for o in event.ops] == ["selu"]
    assert (event.npu_flops_ratio, event.median_seconds, event.cv_ratio) == (0.5, 0.01, 0.02)
    assert (event.samples, event.runtime, event.timestamp) == ("synthetic", RUNTIME, START + 60)


def test_a_fallback_is_told_at_the_first_check() -> None:
    """A model that starts out on the CPU is an incident too."""
    assert names(played(SELU)) == ["fallback_detected"]


def test_other_culprits_change_an_incident() -> None:
    """New ops or another cause are told under the same id; another order or other times are not."""
    both = fallen(op("selu", 0.3, time=0.1), op("conv", 0.2, time=0.3))
    again = fallen(op("conv", 0.2, time=0.2), op("selu", 0.3, time=0.4))
    other = fallen(op("conv", 0.2), op("selu", 0.3), cause="dynamic_shape")
    events = played(SELU, both, again, other)
    assert names(events) == ["fallback_detected", "fallback_changed", "fallback_changed"]
    assert len({event.id for event in events}) == 1


def test_a_fallback_is_cleared_when_it_is_over() -> None:
    """The line that clears has the id of the one that raised, and no culprits; the next fallback has another id."""
    events = played(SELU, HEALTHY, HEALTHY, SELU)
    assert names(events) == ["fallback_detected", "fallback_cleared", "fallback_detected"]
    assert events[0].id == events[1].id != events[2].id
    assert events[1].ops == ()
    assert events[1].level == "info"


@pytest.mark.parametrize("blind", [UNDECIDED, failure(BROKEN)], ids=["undecided", "failed"])
def test_what_could_not_be_judged_clears_nothing(blind: CheckResult) -> None:
    """An unknown verdict keeps the incident: it neither ends it nor raises it again."""
    told = steps(SELU, blind, SELU, HEALTHY)
    assert [e.event for e in told[0]] == ["fallback_detected"]
    assert not any(e.event.startswith("fallback") for e in (*told[1], *told[2]))
    assert [e.event for e in told[3]] == ["fallback_cleared"]


def test_culprits_do_not_come_and_go_with_their_times() -> None:
    """With more equal ops than an incident keeps, their changing times do not change which are kept."""
    count = MOST_CULPRITS + 10
    early = [op(f"n{n:02}", 0.01, time=n / 100) for n in range(count)]
    late = [op(f"n{n:02}", 0.01, time=(count - n) / 100) for n in range(count)]
    for flops in (0.01, 0.0):
        first = fallen(*(msgspec.structs.replace(o, flops_ratio=flops) for o in reversed(early)))
        second = fallen(*(msgspec.structs.replace(o, flops_ratio=flops) for o in late))
        assert names(played(first, second)) == ["fallback_detected"]


def test_data_movement_is_no_culprit_beside_arithmetic() -> None:
    """A Reshape more or less on the CPU does not change an incident about a Conv."""
    assert names(played(SELU, fallen(op("selu", 0.5), op("reshape", 0.0)))) == ["fallback_detected"]


@pytest.mark.parametrize(("breach", "name"), [("median", "latency_shifted"), ("cv", "latency_unstable")])
def test_latency_is_raised_and_recovers(breach: str, name: str) -> None:
    """Each latency gate has its own event; one line raises it and one ends it, under one id."""
    events = played(HEALTHY, degraded(breach), degraded(breach), UNDECIDED, HEALTHY)
    assert names(events) == [name, "latency_recovered"]
    assert events[0].id == events[1].id
    assert events[0].ops == ()


def test_a_fallback_neither_ends_nor_repeats_a_latency_incident() -> None:
    """While the placement is broken nothing is known of the accelerator's speed."""
    assert names(played(degraded("cv"), SELU, degraded("cv"), HEALTHY)) == [
        "latency_unstable",
        "fallback_detected",
        "fallback_cleared",
        "latency_recovered",
    ]


def test_a_failing_check_is_told_once_for_each_reason() -> None:
    """The same failure is not repeated, another one is told under the same id, and recovery ends it."""
    events = played(failure(BROKEN), failure(BROKEN), failure(HUNG), HEALTHY, HEALTHY)
    assert names(events) == ["check_failed", "check_failed", "check_recovered"]
    assert len({event.id for event in events}) == 1
    assert [event.error for event in events] == [BROKEN, HUNG, None]
    assert events[0].npu_flops_ratio is None


def test_an_incident_keeps_the_time_it_began() -> None:
    """Since when is the first check that found it, whatever changed later."""
    state = ModelState("m")
    for number, one in enumerate([failure(BROKEN), failure(HUNG)]):
        state, _ = advance(state, msgspec.structs.replace(one, timestamp=START + number), BOARD)
    assert state.failure is not None
    assert state.failure.since == START
    for number, one in enumerate([SELU, fallen(op("conv", 0.5))]):
        state, _ = advance(state, msgspec.structs.replace(one, timestamp=START + 10 + number), BOARD)
    assert state.fallback is not None
    assert state.fallback.since == START + 10


def test_another_model_file_is_told() -> None:
    """A deployed file that changed is told with both hashes; a failure in between does not hide it."""
    changed = msgspec.structs.replace(HEALTHY, model_sha256="1" * 64)
    events = played(HEALTHY, failure(BROKEN), changed, changed)
    assert names(events) == ["check_failed", "check_recovered", "model_changed"]
    assert events[-1].reason == f"the file changed from {'0' * 12} to {'1' * 12}"


def test_another_runtime_is_told() -> None:
    """An update of the runtime is told with both versions."""
    newer = msgspec.structs.replace(RUNTIME, provider_version="2.8.0", backend_version="v2.60.0")
    (event,) = played(HEALTHY, msgspec.structs.replace(HEALTHY, runtime=newer))
    assert (event.event, event.level) == ("runtime_changed", "warning")
    assert event.reason == (
        "from onnxruntime 1.32.0, qnn 2.7.0, backend v2.51.0 to onnxruntime 1.32.0, qnn 2.8.0, backend v2.60.0"
    )


CULPRITS = st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True)
RESULTS = st.one_of(
    st.just(HEALTHY),
    st.just(UNDECIDED),
    st.sampled_from([failure(BROKEN), failure(HUNG)]),
    st.sampled_from([degraded("cv"), degraded("median")]),
    CULPRITS.map(lambda culprits: fallen(*(op(name, 0.1) for name in culprits))),
)
RAISES = {"fallback_detected": "fallback", "latency_unstable": "latency", "latency_shifted": "latency"}
CLEARS = {"fallback_cleared": "fallback", "latency_recovered": "latency", "check_recovered": "check"}


@given(st.lists(RESULTS, max_size=30))
def test_any_history_pairs_its_events(history: list[CheckResult]) -> None:
    """Each incident is raised once, then changed, then cleared at most once, and never two of a kind are open."""
    open_: dict[str, str] = {}
    used: set[str] = set()
    for event in played(*history):
        if kind := RAISES.get(event.event):
            assert kind not in open_
            assert event.id not in used
            open_[kind] = event.id
            used.add(event.id)
        elif event.event == "check_failed":
            assert open_.setdefault("check", event.id) == event.id
        elif event.event == "fallback_changed":
            assert open_["fallback"] == event.id
        else:
            assert open_.pop(CLEARS[event.event]) == event.id
    if history and history[-1] == HEALTHY:
        assert open_ == {}


def test_an_event_names_the_costliest_types_whole() -> None:
    """Of many culprits a bounded number is told: those of the costliest types, in their order; the rest is counted."""
    cheap = [msgspec.structs.replace(op(f"mul{number}", 0.004), op_type="Mul") for number in range(100)]
    convs = [
        msgspec.structs.replace(op(f"conv{number}", 0.03 if number else 0.0001), op_type="Conv") for number in range(18)
    ]
    (event,) = played(fallen(*sorted([*cheap, *convs], key=lambda one: -(one.flops_ratio or 0))))
    assert len(event.ops) == MOST_OPS
    assert event.ops_omitted == 118 - MOST_OPS
    assert {one.node for one in event.ops} >= {one.node for one in convs}
    shares = [one.flops_ratio or 0 for one in event.ops]
    assert shares == sorted(shares, reverse=True)
