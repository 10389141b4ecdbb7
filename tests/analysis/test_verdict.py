"""One word, one cause, one sentence; and never healthy without evidence."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.analysis.verdict import failed, judge
from monitor.config import Gate
from monitor.records import Branch, Cause, Failure, FailureReason, Fault, NodeCounts, Placement, Rejection
from tests.analysis.evidence import facts, latency, op, placement

GATE = Gate(npu_flops=0.95, cv=0.15, median=0.012)
DYNAMIC = facts(rejections=(Rejection("a", "Conv", "Cannot get shape", "dynamic_shape"),))


def counted(accelerator: int, cpu: int, edge: int = 0) -> Placement:
    """A conclusion of which only the numbers of nodes are known."""
    return placement(None, nodes=NodeCounts(accelerator, cpu, edge))


@pytest.mark.parametrize(("share", "text"), [(1.0, "100 %"), (0.99996, "99.9 %"), (0.95, "95 %"), (0.9501, "95 %")])
def test_a_share_above_the_gate_is_healthy(share: float, text: str) -> None:
    """The gate is met from its own value on, and a share is never rounded up to a whole."""
    judged = judge(GATE, facts(), placement(share), latency())
    assert judged == ("healthy", None, f"{text} of the FLOPs run on the accelerator", None)


def test_a_share_below_the_gate_is_a_fallback() -> None:
    """The sentence has both numbers."""
    judged = judge(GATE, facts(), placement(0.82, op("a", 0.18)), latency())
    assert judged == (
        "fallback",
        "op_unsupported",
        "82 % of the FLOPs run on the accelerator, the gate is 95 %",
        None,
    )


def test_a_fallback_explains_the_latency() -> None:
    """A slow and unsteady model that fell back is a fallback, not an unsteady model."""
    assert judge(GATE, facts(), placement(0.5, op("a", 0.5)), latency(median=1.0, cv=2.0)).verdict == "fallback"


def test_a_slow_median() -> None:
    """With the placement intact, the median's gate names a slow accelerator."""
    judged = judge(GATE, facts(), placement(1.0), latency(median=0.0241))
    assert judged == (
        "degraded",
        "slow_accelerator",
        "the median of 24.1 ms exceeds its gate of 12 ms, with the placement intact",
        "median",
    )


def test_an_unsteady_latency() -> None:
    """So does the CV's."""
    judged = judge(GATE, facts(), placement(1.0), latency(cv=0.204))
    assert (judged.verdict, judged.breach) == ("degraded", "cv")
    assert judged.reason == "the CV of 20.4% exceeds its gate of 15.0%, with the placement intact"


def test_an_audit_alone_has_no_latency_to_judge() -> None:
    """Without replays the placement decides."""
    assert judge(GATE, facts(), placement(1.0), None).verdict == "healthy"


@pytest.mark.parametrize("kind", ["not_on_hardware", "context_mismatch", "accelerator_unavailable"])
def test_what_stopped_the_whole_session_is_the_cause(kind: Cause) -> None:
    """A fault of the session goes before any op's reason."""
    session = facts(faults=(Fault("other", "noise"), Fault(kind, "it said so")), rejections=DYNAMIC.rejections)  # type: ignore[arg-type]
    judged = judge(GATE, session, placement(0.0, op("a", 1.0, "Cannot get shape"), accelerator=0), None)
    assert judged[:3] == ("fallback", kind, "nothing runs on the accelerator")


def test_the_cause_is_that_of_most_of_the_fallen_flops() -> None:
    """Many small dynamic ops do not outweigh one large unsupported op, and the reverse."""
    small = [op(f"d{n}", 0.01, "inside If a, which was refused: Cannot get shape") for n in range(5)]
    assert judge(GATE, DYNAMIC, placement(0.5, op("big", 0.45), *small), None).cause == "op_unsupported"
    assert judge(GATE, DYNAMIC, placement(0.5, op("a", 0.45, "Cannot get shape")), None).cause == "dynamic_shape"


def test_without_flops_the_cause_is_that_of_most_ops() -> None:
    """Where no arithmetic is known to have fallen, ops count alike."""
    ops = [op("a", 0.0, "Cannot get shape"), op("b", 0.0, "Cannot get shape"), op("c", 0.0)]
    assert judge(GATE, DYNAMIC, placement(None, *ops, accelerator=0), None).cause == "dynamic_shape"


def test_a_placement_that_depends_on_the_input_is_judged_at_its_worst() -> None:
    """A good mean over the samples does not hide the branch that falls back."""
    worst = Branch("choice", "then_branch", 1, 0.1)
    found = placement(0.96, op("a", 0.04), npu_flops_ratio_range=(0.1, 1.0), branches=(worst,))
    judged = judge(GATE, facts(), found, None)
    assert (judged.verdict, judged.cause) == ("fallback", "input_dependent")
    assert judged.reason == (
        "as little as 10 % of the FLOPs run on the accelerator where choice takes its then_branch, the gate is 95 %"
    )


def test_what_cannot_be_attributed_decides_nothing() -> None:
    """If the unattributed part could lift the share over the gate, the verdict is unknown; else it is a fallback."""
    undecided = placement(0.9, op("a", 0.02), unattributed_flops_ratio=0.08)
    assert judge(GATE, facts(), undecided, None)[:3] == (
        "unknown",
        None,
        "8 % of the FLOPs cannot be attributed, which decides the gate",
    )
    assert (
        judge(GATE, facts(), placement(0.8, op("a", 0.12), unattributed_flops_ratio=0.08), None).verdict == "fallback"
    )


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
    judged = judge(GATE, facts(), found, None)
    assert (judged.verdict, judged.reason) == (verdict, reason)


@pytest.mark.parametrize("reason", get_args(FailureReason))
def test_a_failed_check_is_unknown(reason: FailureReason) -> None:
    """What was not measured is neither good nor bad; an inference that raised has a cause."""
    judged = failed(Failure(reason, "what happened", "what to do"))
    assert (judged.verdict, judged.reason) == ("unknown", "what happened")
    assert judged.cause == ("runtime_error" if reason == "run_failed" else None)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_never_healthy_below_the_gate(share: float, lost: float, gate: float) -> None:
    """Healthy means that the attributed share alone meets the gate; a fallback that nothing can lift it there."""
    lost = min(lost, 1 - share)
    found = placement(share, op("a", max(0.0, 1 - share - lost)), unattributed_flops_ratio=lost)
    verdict = judge(Gate(npu_flops=gate), facts(), found, None).verdict
    assert (verdict == "healthy") == (share >= gate)
    assert (verdict == "fallback") == (share + lost < gate)
