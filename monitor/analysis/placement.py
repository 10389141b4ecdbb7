"""From what the probe saw to where the work ran: the NPU-FLOP share, the culprits, and why.

FLOPs come from the study (actual shapes, branches taken), processors from the value cover, times from the profile,
reasons from the execution provider. For each inference, accelerator + CPU + unattributed = total.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import prod
from typing import NamedTuple

from monitor.analysis.branches import branches
from monitor.analysis.cover import Cover, cover, strip_token
from monitor.analysis.flops import flops
from monitor.analysis.remedies import Explainer
from monitor.analysis.selfcheck import selfcheck
from monitor.analysis.times import handoffs, node_times, npu_time
from monitor.records import (
    Execution,
    Node,
    NodeCounts,
    OpShare,
    Placed,
    Placement,
    Profile,
    SessionFacts,
    Study,
)

MOST_OPS = 256  # culprits kept in a record; what is shown is bounded further by each output
_EDGE_OPS = frozenset({"QuantizeLinear", "DequantizeLinear"})


class Sums(NamedTuple):
    """FLOPs of one inference by fate; ``by_node`` are those of nodes that ran on the CPU."""

    total: int
    accelerator: int
    unattributed: dict[str, int]
    by_node: dict[int, int]


def placement(
    facts: SessionFacts, study: Study | None, profile: Profile | None, notes: tuple[str, ...] = ()
) -> Placement:
    """Conclude where the model's work ran.

    Without a study the FLOP figures are absent; without a (whole) profile the time figures are. ``notes`` are told
    with it.
    """
    edges = edge_nodes(facts, study)
    cpu = [p for p in facts.placement if p.processor == "cpu"]
    accelerator = [p for p in facts.placement if p.processor == "accelerator"]
    counts = NodeCounts(len(accelerator), len(cpu) - len(edges), len(edges))
    partitions = len({p.unit for p in accelerator})
    times = node_times(profile, study)
    explainer = Explainer(facts, study)
    notes = (*notes, *facts.notes, *([profile.partial] if profile and profile.partial else ()))
    if study is None:
        ops = _ranked(_others(cpu, edges, set(), None, times, explainer))
        time = npu_time(profile)
        return Placement(
            None, None, time, None, None, counts, partitions, ops, {}, notes=notes, handoffs=handoffs(profile)
        )
    covers = cover(study, facts.placement)
    runs = [_sum(study.nodes, covers, executions) for executions in study.runs]
    by_run = [run.accelerator / run.total if run.total else None for run in runs]
    shares = [share for share in by_run if share is not None]
    total = sum(run.total for run in runs)
    weights: dict[int, float] = defaultdict(float)
    lost: dict[str, float] = defaultdict(float)
    for run in runs:
        for index, value in run.by_node.items():
            weights[index] += value / total if total else 0.0
        for op_type, value in run.unattributed.items():
            lost[op_type] += value / total if total else 0.0
    fallen = _fallen(study.nodes, covers, weights, times, explainer)
    named = {name for index in weights for name in (study.nodes[index].name, *covers[index].via)}
    by_type: dict[str, float] = defaultdict(float)
    for op in fallen:
        by_type[op.op_type] += op.flops_ratio or 0.0
    low, high = (min(shares), max(shares)) if shares else (0.0, 0.0)
    return Placement(
        npu_flops_ratio=sum(run.accelerator for run in runs) / total if total else None,
        npu_flops_ratio_range=(low, high) if high - low > 1e-9 else None,
        npu_time_ratio=npu_time(profile),
        unattributed_flops_ratio=sum(lost.values()) if total else None,
        total_flops=round(total / len(runs)) if runs else None,
        nodes=counts,
        partitions=partitions,
        ops=_ranked([*fallen, *_others(cpu, edges, named, 0.0, times, explainer)]),
        fallback_flops=dict(by_type),
        unattributed=dict(lost),
        branches=branches(study, by_run),
        notes=(*notes, *study.notes, *selfcheck(study, facts.placement)),
        handoffs=handoffs(profile),
    )


def edge_nodes(facts: SessionFacts, study: Study | None) -> set[str]:
    """Names of the graph-edge Q/DQ nodes that were left on the CPU, as the provider does by design.

    Where the layout transformer pushes a Transpose through one, an inserted node takes its place at the edge: it is
    known by being refused for the same reason.
    """
    edges = set(facts.edges)
    inner = {node.name for node in study.partitioned} - edges if study else set()
    reasons = {r.node: r.reason for r in facts.rejections if r.op_type in _EDGE_OPS}
    by_design = {reason for name, reason in reasons.items() if strip_token(name) in edges}
    return {
        p.name
        for p in facts.placement
        if p.processor == "cpu"
        and p.op_type in _EDGE_OPS
        and ((name := strip_token(p.name)) in edges or (name not in inner and reasons.get(p.name) in by_design))
    }


def _sum(nodes: Sequence[Node], covers: Sequence[Cover], executions: Iterable[Execution]) -> Sums:
    total = accelerator = 0
    unattributed: dict[str, int] = defaultdict(int)
    by_node: dict[int, int] = defaultdict(int)
    for execution in executions:
        node, found = nodes[execution.node], covers[execution.node]
        if found.fate in ("folded", "eliminated"):
            continue  # no longer part of the inference: out of the total too
        count = flops(node, execution.inputs, execution.outputs)
        known = count is not None
        if count is None:  # no rule: weigh it as one FLOP per output element, so that it is seen, and never as NPU
            count = sum(prod(shape) for shape in execution.outputs if shape is not None)
        value = count * execution.count
        if not value:
            continue
        total += value
        if not known or found.processor is None:
            unattributed[node.op_type] += value
        elif found.processor == "accelerator":
            accelerator += value
        else:
            by_node[execution.node] += value
    return Sums(total, accelerator, dict(unattributed), dict(by_node))


def _fallen(
    nodes: Sequence[Node],
    covers: Sequence[Cover],
    weights: dict[int, float],
    times: dict[str, float],
    explainer: Explainer,
) -> list[OpShare]:
    """The arithmetic nodes that ran on the CPU."""
    ops = []
    for index, ratio in weights.items():
        node, via = nodes[index], covers[index].via
        time = next((times[name] for name in (node.name, *via) if name in times), None)
        reason, remedy = explainer.explain((node.name, *via), node.op_type)
        ops.append(OpShare(node.name, node.op_type, ratio, time, reason, remedy))
    return ops


def _others(
    cpu: Iterable[Placed],
    edges: set[str],
    named: set[str],
    ratio: float | None,
    times: dict[str, float],
    explainer: Explainer,
) -> list[OpShare]:
    """CPU nodes not in ``named``: data movement with a ``ratio`` of 0, or all of them, ``None``, without a study."""
    ops = []
    for placed in cpu:
        name = strip_token(placed.name)
        if not name or placed.name in edges or name in named:
            continue
        reason, remedy = explainer.explain((name,), placed.op_type)
        ops.append(OpShare(name, placed.op_type, ratio, times.get(name), reason, remedy))
    return ops


def _ranked(ops: list[OpShare]) -> tuple[OpShare, ...]:
    return tuple(sorted(ops, key=lambda op: (-(op.flops_ratio or 0.0), -(op.time_ratio or 0.0), op.node))[:MOST_OPS])
