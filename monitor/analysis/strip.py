"""One inference as a strip: every op of the model in the order it runs, where it ran, what it computes.

The study runs the model op by op, the session runs whole partitions: so ops are put in the order of the profiled
session's spans where these can be told apart, and keep the study's order within a partition. FLOPs and processors are
those of :mod:`monitor.analysis.placement`, so that the widths of a strip add up to the shares beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import prod
from typing import NamedTuple

from monitor.analysis.cover import Cover, cover, strip_token
from monitor.analysis.flops import flops
from monitor.analysis.placement import edge_nodes
from monitor.analysis.remedies import Explainer
from monitor.analysis.times import node_times
from monitor.records import Cell, Execution, Lane, Node, Profile, SessionFacts, Span, Strip, Study

NO_RULE = "no FLOP rule for this op: weighed as 1 FLOP per output element"
NOT_JOINED = "the session's graph does not tell where this op went"
BY_DESIGN = "quantizes at the graph's edge: the execution provider leaves it on the CPU by design"
_NUMBER = re.compile(r"(\d+)$")


def strip(facts: SessionFacts, study: Study | None, profile: Profile | None) -> Strip:
    """The strip of one inference: of several samples, the one that does least on the accelerator.

    Without a study it has the session's own steps, FLOPs unknown; without a whole profile the study's order.
    """
    spans = _spans(profile)
    edges = {strip_token(name) for name in edge_nodes(facts, study)}
    explainer = Explainer(facts, study)
    units = _Units(facts, spans)
    if study is None or not study.runs:
        times = node_times(profile, study)
        cells = tuple(_step(span, edges, explainer, units, times) for span in spans)
        return Strip(cells, "session")
    covers = cover(study, facts.placement)
    runs = [_worked(study.nodes, covers, executions) for executions in study.runs]
    number = min(range(len(runs)), key=lambda index: _share(runs[index]))
    order = _Order(study, spans, units)
    times = node_times(profile, study)
    shown = [work for work in runs[number] if work.flops or work.cover.processor is not None]
    ranked: list[tuple[int, int, Cell]] = []
    for work in shown:
        cell = _cell(work, edges, explainer, units, times)
        ranked.append((order.rank(work, cell.unit), len(ranked), cell))
    ranked.sort(key=lambda entry: entry[:2])
    cells = tuple(cell for *_, cell in ranked)
    omitted = len(runs[number]) - len(shown)
    return Strip(cells, "session" if order.known else "study", number + 1, len(runs), omitted)


class _Work(NamedTuple):
    """One node of the study in one inference, all its executions. ``flops`` is a mere weight unless ``ruled``."""

    node: Node
    cover: Cover
    flops: int
    ruled: bool


def _worked(nodes: tuple[Node, ...], covers: tuple[Cover, ...], executions: Iterable[Execution]) -> list[_Work]:
    """What ran, in the order it first ended; folded and eliminated nodes are no part of the session."""
    counted: dict[int, int] = {}
    unruled: set[int] = set()
    for execution in executions:
        index = execution.node
        if covers[index].fate in ("folded", "eliminated"):
            continue
        count = flops(nodes[index], execution.inputs, execution.outputs)
        if count is None:
            unruled.add(index)
            count = sum(prod(shape) for shape in execution.outputs if shape is not None)
        counted[index] = counted.get(index, 0) + count * execution.count
    return [_Work(nodes[index], covers[index], value, index not in unruled) for index, value in counted.items()]


def _share(run: list[_Work]) -> float:
    total = sum(work.flops for work in run)
    npu = sum(work.flops for work in run if work.ruled and work.cover.processor == "accelerator")
    return npu / total if total else 1.0


def _cell(work: _Work, edges: set[str], explainer: Explainer, units: _Units, times: Mapping[str, float]) -> Cell:
    node, names = work.node, (work.node.name, *work.cover.via)
    time = next((times[name] for name in names if name in times), None)
    lane: Lane
    if work.cover.processor is None or (work.flops and not work.ruled):
        lane, reason = "unattributed", NOT_JOINED if work.cover.processor is None else NO_RULE
    elif work.cover.processor == "accelerator":
        unit = next((units.of[name] for name in names if name in units.of), 0)
        return Cell(node.name, node.op_type, "accelerator", unit, work.flops)
    elif any(strip_token(name) in edges for name in names):
        lane, reason = "edge", BY_DESIGN
    else:
        lane, reason = "cpu", explainer.explain(names, node.op_type)[0]
    return Cell(node.name, node.op_type, lane, 0, work.flops, time, reason)


def _step(span: Span, edges: set[str], explainer: Explainer, units: _Units, times: Mapping[str, float]) -> Cell:
    """A step of the session itself, of a model whose own ops are not known."""
    if span.processor == "accelerator":
        unit = units.steps.get(span.op_type, 0)
        return Cell(f"partition {unit}", "partition", "accelerator", unit)
    name = strip_token(span.name)
    if name in edges:
        return Cell(name, span.op_type, "edge", time_ratio=times.get(name), reason=BY_DESIGN)
    reason = explainer.explain((name,), span.op_type)[0]
    return Cell(name, span.op_type, "cpu", time_ratio=times.get(name), reason=reason)


def _spans(profile: Profile | None) -> list[Span]:
    """The first profiled inference's steps in the order they ended."""
    if profile is None or profile.partial or not profile.runs:
        return []
    return [span for span in profile.runs[0] if not span.nested]


class _Units:
    """The session's partitions, numbered from 1 as they run (as they were made, where no run tells).

    A partition's step in the profile carries a name of its own that ends in its number; the runtime numbers the units
    of its placement in the same order (measured with onnxruntime 1.32). Where their counts differ, nothing is joined.
    """

    def __init__(self, facts: SessionFacts, spans: list[Span]) -> None:
        made = sorted({p.unit for p in facts.placement if p.processor == "accelerator"})
        ran = list(dict.fromkeys(span.op_type for span in spans if span.processor == "accelerator"))
        numbered = sorted(ran, key=lambda op_type: int(found[1]) if (found := _NUMBER.search(op_type)) else 0)
        self.joined = len(made) == len(ran)
        number = {unit: index for index, unit in enumerate(made, 1)}
        if self.joined:
            number = {unit: ran.index(step) + 1 for unit, step in zip(made, numbered, strict=True)}
        self.steps = {step: index for index, step in enumerate(ran, 1)}
        self.of = {strip_token(p.name): number[p.unit] for p in facts.placement if p.processor == "accelerator"}


class _Order:
    """When each op ran in the session. ``known`` is not set if the session cannot tell; then every rank is 0."""

    def __init__(self, study: Study, spans: list[Span], units: _Units) -> None:
        self.known = bool(spans) and units.joined
        self._last = -1
        self._ranks: dict[str, int] = {}
        self._units: dict[int, int] = {}
        if not self.known:
            return
        # what the CPU's own later optimizations rename is called after the value it makes
        makers = {value: node.name for node in study.partitioned for value in node.outputs}
        for rank, span in enumerate(spans):
            if span.processor == "accelerator":
                self._units.setdefault(units.steps[span.op_type], rank)
                continue
            name = strip_token(span.name)
            self._ranks.setdefault(makers.get(name.removesuffix("_nchwc"), name), rank)

    def rank(self, work: _Work, unit: int) -> int:
        """The step that ran the op; one that has lost its name on the CPU ran with the CPU op before it."""
        if not self.known:
            return 0
        if unit:
            return self._units[unit]
        names = (work.node.name, *work.cover.via)
        self._last = next((self._ranks[name] for name in names if name in self._ranks), self._last)
        return self._last
