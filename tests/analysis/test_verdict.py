"""One word, one cause, one sentence; and never healthy without evidence."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.analysis.verdict import deep_words, failed, judge, moved
from monitor.config import Gate
from monitor.records import (
    RUN_FAILURES,
    Branch,
    Cause,
    DeepProfile,
    Failure,
    FailureReason,
    Fault,
    NodeCounts,
    Placement,
    Rejection,
)
from tests.analysis.evidence import facts, op, placement

GATE = Gate(npu_flops=0.95)
DYNAMIC = facts(rejections=(Rejection("a", "Conv", "Cannot get shape", "dynamic_shape"),))


def counted(accelerator: int, cpu: int, edge: int = 0) -> Placement:
    """A conclusion of which only the numbers of nodes are known."""
    return placement(None, nodes=NodeCounts(accelerator, cpu, edge))


@pytest.mark.parametrize(("share", "text"), [(1.0, "100 %"), (0.99996, "99.9 %"), (0.95, "95 %"), (0.9501, "95 %")])
def test_a_share_above_the_gate_is_healthy(share: float, text: str) -> None:
    """The gate is met from its own value on, and a share is never rounded up to a whole."""
    judged = judge(GATE, facts(), placement(share))
    assert judged == ("healthy", None, f"{text} of the FLOPs run on the accelerator")


def test_a_share_below_the_gate_is_a_fallback() -> None:
    """The sentence has both numbers."""
    judged = judge(GATE, facts(), placement(0.82, op("a", 0.18)))
    assert judged == (
        "fallback",
        "op_unsupported",
        "82 % of the FLOPs run on the accelerator, the gate is 95 %",
    )


@pytest.mark.parametrize("kind", ["not_on_hardware", "context_mismatch", "accelerator_unavailable"])
def test_what_stopped_the_whole_session_is_the_cause(kind: Cause) -> None:
    """A fault of the session goes before any op's reason."""
    session = facts(faults=(Fault("other", "noise"), Fault(kind, "it said so")), rejections=DYNAMIC.rejections)  # type: ignore[arg-type]
    judged = judge(GATE, session, placement(0.0, op("a", 1.0, "Cannot get shape"), accelerator=0))
    assert judged == ("fallback", kind, "nothing runs on the accelerator")


def test_the_cause_is_that_of_most_of_the_fallen_flops() -> None:
    """Many small dynamic ops do not outweigh one large unsupported op, and the reverse."""
    small = [op(f"d{n}", 0.01, "inside If a, which was refused: Cannot get shape") for n in range(5)]
    assert judge(GATE, DYNAMIC, placement(0.5, op("big", 0.45), *small)).cause == "op_unsupported"
    assert judge(GATE, DYNAMIC, placement(0.5, op("a", 0.45, "Cannot get shape"))).cause == "dynamic_shape"


def test_without_flops_the_cause_is_that_of_most_ops() -> None:
    """Where no arithmetic is known to have fallen, ops count alike."""
    ops = [op("a", 0.0, "Cannot get shape"), op("b", 0.0, "Cannot get shape"), op("c", 0.0)]
    assert judge(GATE, DYNAMIC, placement(None, *ops, accelerator=0)).cause == "dynamic_shape"


def test_a_placement_that_depends_on_the_input_is_judged_at_its_worst() -> None:
    """A good mean over the samples does not hide the branch that falls back."""
    worst = Branch("choice", "then_branch", 1, 0.1)
    found = placement(0.96, op("a", 0.04), npu_flops_ratio_range=(0.1, 1.0), branches=(worst,))
    judged = judge(GATE, facts(), found)
    assert (judged.verdict, judged.cause) == ("fallback", "input_dependent")
    assert judged.reason == (
        "as little as 10 % of the FLOPs run on the accelerator where choice takes its then_branch, the gate is 95 %"
    )


def test_what_cannot_be_attributed_decides_nothing() -> None:
    """If the unattributed part could lift the share over the gate, the verdict is unknown; else it is a fallback."""
    undecided = placement(0.9, op("a", 0.02), unattributed_flops_ratio=0.08)
    assert judge(GATE, facts(), undecided) == (
        "unknown",
        None,
        "8 % of the FLOPs cannot be attributed, which decides the gate",
    )
    assert judge(GATE, facts(), placement(0.8, op("a", 0.12), unattributed_flops_ratio=0.08)).verdict == "fallback"


@pytest.mark.parametrize(
    ("found", "verdict", "reason"),
    [
        (counted(0, 0), "unknown", "the runtime recorded no placement"),
        (counted(5, 0, 2), "healthy", "every node runs on the accelerator"),
        (
            counted(5, 3),
            "unknown",
            "3 nodes run on the CPU, and their share of the FLOPs is not known",
        ),
        (counted(0, 3), "fallback", "nothing runs on the accelerator"),
        (counted(0, 0, 2), "fallback", "nothing runs on the accelerator"),
    ],
)
def test_without_flops_only_the_extremes_are_known(found: Placement, verdict: str, reason: str) -> None:
    """All or nothing can be told from the nodes; what lies between cannot."""
    judged = judge(GATE, facts(), found)
    assert (judged.verdict, judged.reason) == (verdict, reason)


@pytest.mark.parametrize("reason", get_args(FailureReason))
def test_a_failed_check_is_unknown(reason: FailureReason) -> None:
    """What was not measured is neither good nor bad; an inference that raised has a cause."""
    judged = failed(Failure(reason, "what happened", "what to do"))
    assert (judged.verdict, judged.reason) == ("unknown", "what happened")
    assert judged.cause == ("runtime_error" if reason in RUN_FAILURES else None)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_never_healthy_below_the_gate(share: float, lost: float, gate: float) -> None:
    """Healthy means that the attributed share alone meets the gate; a fallback that nothing can lift it there."""
    lost = min(lost, 1 - share)
    found = placement(share, op("a", max(0.0, 1 - share - lost)), unattributed_flops_ratio=lost)
    verdict = judge(Gate(npu_flops=gate), facts(), found).verdict
    assert (verdict == "healthy") == (share >= gate)
    assert (verdict == "fallback") == (share + lost < gate)


RANK = {"healthy": 0, "degraded": 1, "fallback": 2}


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.integers(0, 9), st.integers(0, 9))
def test_more_fallback_is_never_a_better_verdict(
    share: float, less: float, lost: float, gate: float, cpu: int, more: int
) -> None:
    """A lower share of the FLOPs, or more ops on the CPU, never improves the verdict; and it never becomes unknown."""
    share, less = max(share, less), min(share, less)
    lost = min(lost, 1 - share)
    ops = [op(f"n{number}", 0.0) for number in range(cpu + more)]
    good = placement(share, *ops[:cpu], unattributed_flops_ratio=lost)
    bad = placement(less, *ops, unattributed_flops_ratio=lost)
    before, after = (judge(Gate(npu_flops=gate), facts(), one).verdict for one in (good, bad))
    if "unknown" not in (before, after):
        assert RANK[after] >= RANK[before]
    assert (before, after) != ("fallback", "unknown")
    assert (before, after) != ("unknown", "healthy")


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_worse_branch_is_never_a_better_verdict(low: float, lower: float, high: float) -> None:
    """The same for the worst of the ways that an input-dependent model goes."""
    lower, low, high = sorted((low, lower, high))
    ranks = [
        RANK[judge(Gate(), facts(), placement(high, op("a", 0.0), npu_flops_ratio_range=(worst, high))).verdict]
        for worst in (low, lower)
    ]
    assert ranks[1] >= ranks[0]


def test_a_second_look_names_what_moved() -> None:
    """Ops that fell since the first audit are named, those that came back counted, and an intact placement said so."""
    before = placement(0.9, op("a", 0.05), op("b", 0.05))
    assert moved(before, before) == "a fresh audit found the placement intact"
    assert moved(before, placement(0.5, op("b", 0.05), *(op(f"n{number}", 0.1) for number in range(4)))) == (
        "a fresh audit found another placement: 4 more on the CPU (Conv n0, Conv n1, Conv n2 and others), "
        "1 back on the accelerator"
    )
    assert moved(before, placement(1.0)) == (
        "a fresh audit found another placement: none more on the CPU, 2 back on the accelerator"
    )


def test_a_deep_look_says_where_the_time_goes() -> None:
    """The accelerator's own times in a clause, or why there are none."""
    assert deep_words(None) == "it was not profiled"
    assert deep_words(DeepProfile(0, partial="no counters")) == "its own profile is missing: no counters"
    timed = DeepProfile(3, inference_seconds=0.0301, accelerator_seconds=0.009)
    assert deep_words(timed) == "of 30.1 ms the accelerator takes 9 ms"
