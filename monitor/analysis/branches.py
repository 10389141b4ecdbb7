"""Which way the control flow went: placement is fixed with the session, but what of it runs depends on the input.

Tells, for each ``If`` that different samples drove into different branches, how many took which, and what share of
their FLOPs ran on the accelerator then.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from monitor.analysis.cover import control_of
from monitor.records import Branch, Study


def branches(study: Study, shares: Sequence[float | None]) -> tuple[Branch, ...]:
    """The branches of input-dependent ``If`` nodes, the least accelerated first; ``shares`` are those of the runs."""
    controls = {node.name for node in study.nodes if node.op_type == "If"}
    taken: dict[str, dict[str, list[int]]] = {name: defaultdict(list) for name in controls}
    for number, executions in enumerate(study.runs):
        executed = [study.nodes[execution.node] for execution in executions]
        entered: dict[str, set[str]] = defaultdict(set)
        for node in executed:
            control = control_of(node.scope)
            if control in controls:
                entered[control].add(node.scope.rpartition("/")[2])
        for name in {node.name for node in executed} & controls:
            taken[name]["+".join(sorted(entered.get(name, {"a branch without nodes"})))].append(number)
    found = []
    for name, ways in taken.items():
        if len(ways) < 2:
            continue
        for way, runs in ways.items():
            known = [share for number in runs if (share := shares[number]) is not None]
            found.append(Branch(name, way, len(runs), sum(known) / len(known) if known else None))
    return tuple(sorted(found, key=lambda b: (b.npu_flops_ratio is None, b.npu_flops_ratio or 0.0, b.node, b.branch)))
