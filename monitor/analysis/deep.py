"""The accelerator's own profile, joined to the nodes of the model: what each op costs where nobody else can look.

The accelerator runs ops of its own, each made from a few nodes that the runtime handed over, under the names that its
optimizations left. A row belongs to the model's node that it is named after, or else to the first arithmetic one among
its sources; a quantizing node that was re-made under a new name is known by what it reads. What the runtime inserted is
the sum *layout*, and what matches neither is *unjoined*, so that op + layout + unjoined = all cycles.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from monitor.analysis.cover import cover, strip_token
from monitor.records import DeepOp, DeepProfile, DeepReading, DeepRow, DeepTimes, Node, Study

MOST_OPS = 1024  # kept in a record; what is shown is bounded further by each output
LAYOUT = "layout"
_QUANTIZING = frozenset({"QuantizeLinear", "DequantizeLinear"})
_INSERTED = _QUANTIZING | {"Cast", "Reshape", "Transpose"}
_COPIED = "/duplicated"  # the runtime gives each quantized consumer a DequantizeLinear of its own


class _Found(NamedTuple):
    node: Node
    fused: tuple[str, ...]


def deep(reading: DeepReading, study: Study | None) -> DeepProfile:
    """Join ``reading`` to the nodes of ``study``; without one, to the names that the runtime gave them."""
    times = _times(reading.times)
    runs = reading.runs
    if reading.partial is not None or not runs:
        return DeepProfile(runs, inference_seconds=times.inference_seconds, partial=reading.partial)
    listed = sum(row.cycles for row in reading.rows)
    total = listed + reading.unlisted
    if not total:
        return DeepProfile(runs, inference_seconds=times.inference_seconds, partial="the profile counts no cycles")
    parts: dict[str, int] = defaultdict(int)
    ops = []
    for op in _ops(reading, study):
        parts[op.part] += op.cycles
        ops.append(DeepOp(op.node, op.op_type, op.cycles, op.cycles / total, op.fused, op.part))
    return DeepProfile(
        runs=runs,
        ops=tuple(sorted(ops, key=lambda op: (-op.cycles, op.part, op.node))[:MOST_OPS]),
        total_cycles=total,
        joined_ratio=parts["op"] / total,
        layout_ratio=parts[LAYOUT] / total,
        unjoined_ratio=(parts["unjoined"] + reading.unlisted) / total,
        inference_seconds=times.inference_seconds,
        accelerator_seconds=times.accelerator_seconds,
        wait_seconds=times.wait_seconds,
        rpc_seconds=times.rpc_seconds,
        host_seconds=times.host_seconds,
    )


class _Times(NamedTuple):
    inference_seconds: float | None = None
    accelerator_seconds: float | None = None
    wait_seconds: float | None = None
    rpc_seconds: float | None = None
    host_seconds: float | None = None


def _times(times: DeepTimes | None) -> _Times:
    """The nested durations as parts that add up; a part whose two ends are not both known is absent."""
    if times is None:
        return _Times()
    outermost = times.call if times.call is not None else times.accelerator
    return _Times(
        times.inference,
        times.busy if times.busy is not None else times.accelerator,
        _difference(times.accelerator, times.busy),
        _difference(times.call, times.accelerator),
        _difference(times.inference, outermost),
    )


def _difference(outer: float | None, inner: float | None) -> float | None:
    # an inner duration that is the longer one is no part of the outer: two clocks that disagree tell nothing
    return outer - inner if outer is not None and inner is not None and outer >= inner else None


def _ops(reading: DeepReading, study: Study | None) -> list[DeepOp]:
    """The rows summed by node, with no ratio yet."""
    join = _Join(reading, study)
    cycles: dict[tuple[str, str, str], int] = defaultdict(int)
    fused: dict[tuple[str, str, str], dict[str, None]] = defaultdict(dict)
    for row in reading.rows:
        found = join.find(row)
        if found is not None:
            key = ("op", found.node.name, found.node.op_type)
            fused[key] |= dict.fromkeys(found.fused)
        elif join.inserted(row):
            key = (LAYOUT, LAYOUT, "")
        else:
            key = ("unjoined", strip_token(row.name), join.type_of(row.name))
        cycles[key] += row.cycles
    return [
        DeepOp(node, op_type, count, 0.0, tuple(fused[part, node, op_type]), part)  # type: ignore[arg-type]
        for (part, node, op_type), count in cycles.items()
    ]


class _Join:
    def __init__(self, reading: DeepReading, study: Study | None) -> None:
        self.types = {placed.name: placed.op_type for placed in reading.placement}
        nodes = study.nodes if study else tuple(self._as_named())
        self.nodes = {node.name: node for node in nodes}
        self.rows = {row.name: row for row in reading.rows}
        self.behind: dict[str, list[Node]] = defaultdict(list)  # a fused node's name -> the model's nodes in it
        self.readers: dict[str, list[Node]] = defaultdict(list)
        if study is not None:
            for node, found in zip(study.nodes, cover(study, reading.placement), strict=True):
                for name in found.via:
                    self.behind[strip_token(name)].append(node)
        for node in nodes:
            for value in node.inputs[:1]:
                self.readers[value].append(node)
        self.named = {node.name for row in reading.rows for node in self._sources(row)}

    def _as_named(self) -> Iterator[Node]:
        """Nodes by the runtime's own names; it names what it inserts after the op."""
        for name, op_type in self.types.items():
            if name and strip_token(name) != op_type:
                yield Node(strip_token(name), op_type)

    def find(self, row: DeepRow) -> _Found | None:
        """The model's node that ``row`` runs, and the others fused into it."""
        own, sources = self._known(row.name), self._sources(row)
        arithmetic = [node for node in (*own, *sources) if node.op_type not in _QUANTIZING]
        if arithmetic:
            first = arithmetic[0]
            return _Found(first, tuple(dict.fromkeys(n.name for n in arithmetic if n.name != first.name)))
        if own:
            return _Found(own[0], ())
        remade = self._remade(row)
        return _Found(remade, ()) if remade else None

    def inserted(self, row: DeepRow) -> bool:
        """Whether runtime or provider put it there: a copy at an edge, or a conversion that no node asked for."""
        return row.edge or self.type_of(row.name) in _INSERTED

    def type_of(self, name: str) -> str:
        """The op type as placed; of a name that was not placed, the op that it is named after, or nothing."""
        stem = strip_token(name)
        return self.types.get(name) or (stem if stem in _INSERTED else "")

    def _known(self, name: str) -> list[Node]:
        stem = strip_token(name).removesuffix(_COPIED)
        return [self.nodes[stem]] if stem in self.nodes else self.behind.get(stem, [])

    def _sources(self, row: DeepRow) -> list[Node]:
        return [node for name in row.sources for node in self._known(name)]

    def _remade(self, row: DeepRow) -> Node | None:
        """The one quantizing node of this type that reads what ``row`` reads and that no other row accounts for."""
        kind = self.type_of(row.name)
        if kind not in _QUANTIZING:
            return None
        makers = [self.rows[name] for name in row.after if name in self.rows]
        made = {value for maker in makers for node in self._makers(maker) for value in node.outputs}
        found = {
            node.name: node
            for value in made
            for node in self.readers.get(value, ())
            if node.op_type == kind and node.name not in self.named
        }
        return next(iter(found.values())) if len(found) == 1 else None

    def _makers(self, row: DeepRow) -> Iterable[Node]:
        return (*self._known(row.name), *self._sources(row))
