"""From evidence to one word, one cause and one sentence.

This is what one audit shows by itself. A verdict is only as good as what was measured: where the evidence does not
decide, it is ``unknown``, never ``healthy``.
"""

from __future__ import annotations

from typing import NamedTuple

from monitor.analysis.agreement import disagreement, output_limit
from monitor.config import Gate
from monitor.records import RUN_FAILURES, Agreement, Cause, DeepProfile, Failure, Placement, SessionFacts, Verdict


class Judgement(NamedTuple):
    """A verdict, its cause (``None`` if healthy or undecided), and the sentence that says why."""

    verdict: Verdict
    cause: Cause | None
    reason: str


def judge(gate: Gate, facts: SessionFacts, placement: Placement, agreement: Agreement | None = None) -> Judgement:
    """Judge what one audit shows: placement first, since a fallback explains the outputs; then the outputs.

    Wrong numbers have no cause among the contract's: it stays ``None``, and the sentence names the output. The latency
    is judged by :func:`monitor.analysis.assess.assess`, which knows its history.
    """
    placed = _judge_placement(gate, facts, placement)
    limit = output_limit(gate.output_error, facts.samples.source)
    if placed.verdict == "healthy" and agreement and (wrong := disagreement(agreement, limit)):
        return Judgement("degraded", None, f"{wrong}, with the placement intact")
    return placed


def moved(before: Placement, after: Placement) -> str:
    """What a second audit says of the first: the ops that run on the CPU now and did not, or that nothing moved."""
    known = {op.node for op in before.ops}
    fell = [op for op in after.ops if op.node not in known]
    back = len(known - {op.node for op in after.ops})
    if not fell and not back:
        return "a fresh audit found the placement intact"
    named = ", ".join(f"{op.op_type} {op.node}" for op in fell[:3]) + (" and others" if fell[3:] else "")
    fallen = f"{len(fell)} more on the CPU ({named})" if fell else "none more on the CPU"
    return f"a fresh audit found another placement: {fallen}, {back} back on the accelerator"


def deep_words(profile: DeepProfile | None) -> str:
    """Where the time of one inference goes by the accelerator's own profile, in a clause."""
    if profile is None or profile.accelerator_seconds is None or profile.inference_seconds is None:
        return f"its own profile is missing: {profile.partial or 'no times'}" if profile else "it was not profiled"
    whole, part = milliseconds(profile.inference_seconds), milliseconds(profile.accelerator_seconds)
    return f"of {whole} the accelerator takes {part}"


def failed(failure: Failure) -> Judgement:
    """What a check that measured nothing amounts to."""
    cause = failure.cause or ("runtime_error" if failure.reason in RUN_FAILURES else None)
    return Judgement("unknown", cause, failure.detail)


def _judge_placement(gate: Gate, facts: SessionFacts, placement: Placement) -> Judgement:
    nodes, share = placement.nodes, placement.npu_flops_ratio
    if nodes.accelerator == 0 and nodes.cpu + nodes.edge == 0:
        return Judgement("unknown", None, "the runtime recorded no placement")
    if nodes.accelerator == 0:
        return Judgement("fallback", cause_of(facts, placement), "nothing runs on the accelerator")
    if share is None:
        if nodes.cpu == 0:
            return Judgement("healthy", None, "every node runs on the accelerator")
        left = f"{nodes.cpu} nodes run on the CPU"
        return Judgement("unknown", None, f"{left}, and their share of the FLOPs is not known")
    low = placement.npu_flops_ratio_range[0] if placement.npu_flops_ratio_range else share
    if low >= gate.npu_flops:
        return Judgement("healthy", None, f"{_share(share)} of the FLOPs run on the accelerator")
    if low + (placement.unattributed_flops_ratio or 0.0) >= gate.npu_flops:
        lost = _share(placement.unattributed_flops_ratio or 0.0)
        return Judgement("unknown", None, f"{lost} of the FLOPs cannot be attributed, which decides the gate")
    at = f"{_share(share)} of the FLOPs run on the accelerator, the gate is {_share(gate.npu_flops)}"
    if low < share:
        worst = placement.branches[0] if placement.branches else None
        when = f" where {worst.node} takes its {worst.branch}" if worst else " with some samples"
        gated = f"the gate is {_share(gate.npu_flops)}"
        at = f"as little as {_share(low)} of the FLOPs run on the accelerator{when}, {gated}"
    return Judgement("fallback", cause_of(facts, placement), at)


def cause_of(facts: SessionFacts, placement: Placement) -> Cause:
    """Why work fell back: what stopped the whole session, else what stopped most of the fallen FLOPs."""
    kinds = {fault.kind for fault in facts.faults}
    for kind in ("not_on_hardware", "context_mismatch", "accelerator_unavailable"):
        if kind in kinds:
            return kind
    if placement.npu_flops_ratio_range is not None and placement.branches:
        return "input_dependent"
    dynamic = {r.reason for r in facts.rejections if r.kind == "dynamic_shape"}
    fallen = sum(op.flops_ratio or 0.0 for op in placement.ops)
    weight = sum(
        (op.flops_ratio or 0.0) if fallen else 1 for op in placement.ops if any(d in op.reason for d in dynamic)
    )
    return "dynamic_shape" if weight * 2 > (fallen or len(placement.ops)) else "op_unsupported"


def _share(ratio: float) -> str:
    """A percentage that rounds neither up to a whole that it does not reach nor down to nothing."""
    if 0 < ratio < 0.001:
        return "less than 0.1 %"
    return "100 %" if ratio == 1 else f"{int(ratio * 1000) / 10:g} %"


def milliseconds(seconds: float) -> str:
    """A latency in a sentence."""
    return f"{seconds * 1e3:.3g} ms"
