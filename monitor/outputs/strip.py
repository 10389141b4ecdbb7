"""The audit as one HTML file: an inference as a strip in the order it runs, coloured by processor.

First the data, then the template. Nothing is loaded from elsewhere and no script runs: what is pointed at shows its
name and reason by CSS alone. However large the graph, the file stays small: neighbours on the same processor that are
narrower than a pixel become one segment, and where processors alternate within a pixel, the costlier gives the colour.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from monitor.outputs import wording
from monitor.outputs.template import template
from monitor.outputs.wording import clip, percent, printable
from monitor.records import Cell, CheckResult, Lane, Strip

if TYPE_CHECKING:
    from jinja2 import Template

PIXELS: Final = 1000
"""The strip's width on a usual screen; what is narrower than 1/PIXELS of it is merged."""
ROWS: Final = 1500
"""Most ops in the list of all ops; the JSON document has those that matter."""
GROUPS: Final = 30
NAMED: Final = 3
"""Ops of a merged segment that are named, the costliest first."""
NAME_LIMIT: Final = 120
TEXT_LIMIT: Final = 400

LANES: Final[dict[Lane, str]] = {
    "accelerator": "NPU",
    "cpu": "CPU",
    "edge": "edge Q/DQ (CPU by design)",
    "unattributed": "unattributed",
}


class Line(Struct, frozen=True):
    """One op of a segment, as its description shows it."""

    name: str
    op_type: str
    share: str
    reason: str


class Segment(Struct, frozen=True):
    """A piece of a strip. ``start`` and ``width`` are percentages of it; ``rest`` counts the ops that are not named."""

    lane: Lane
    start: float
    width: float
    unit: int
    title: str
    lines: tuple[Line, ...]
    rest: int


class Bracket(Struct, frozen=True):
    """A partition, or the work between two, below a strip; in percentages of it."""

    lane: Lane
    start: float
    width: float
    label: str
    title: str


class Total(Struct, frozen=True):
    """What one processor did, for the legend."""

    lane: Lane
    label: str
    ops: int
    share: str


def render(result: CheckResult, strip: Strip | None) -> str:
    """The whole document. Without a ``strip`` (nothing was measured) it says why and draws nothing."""
    placement = None if result.error else result.placement
    cells = strip.cells if strip else ()
    total = sum(cell.flops or 0 for cell in cells)
    groups = wording.group_ops(placement.ops if placement else ())
    return _template().render(
        result=result,
        placement=placement,
        strip=strip,
        lanes=LANES,
        totals=_totals(cells, total),
        by_flops=segments(cells, [cell.flops or 0 for cell in cells], total),
        by_op=segments(cells, [1] * len(cells), total),
        brackets=brackets(cells),
        rows=[(number, cell, _share(cell, total)) for number, cell in enumerate(cells[:ROWS], 1)],
        rows_omitted=max(0, len(cells) - ROWS),
        groups=groups[:GROUPS],
        groups_omitted=len(groups[GROUPS:]),
        notes=(*result.notes, *(placement.notes if placement else ())),
        named=any(cell.reason for cell in cells),
    )


def segments(cells: Sequence[Cell], weights: Sequence[int], total: int) -> tuple[Segment, ...]:
    """The cells as drawn, each as wide as its weight: at most ``2 * PIXELS`` pieces, and none without width.

    ``total`` are the FLOPs that shares are told of.
    """
    whole = sum(weights)
    if not whole:
        return ()
    pieces: list[_Piece] = []
    position = 0
    for cell, weight in zip(cells, weights, strict=True):
        start, position = position, position + weight
        piece = pieces[-1] if pieces else None
        if piece is None or not piece.takes(cell, start, weight, whole):
            pieces.append(piece := _Piece(start))
        piece.add(cell, weight)
    return tuple(piece.segment(whole, total) for piece in pieces if piece.weight)


class _Piece:
    """Neighbouring cells that become one segment."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.weight = 0
        self.cells: list[Cell] = []
        self.lanes: Counter[Lane] = Counter()

    def takes(self, cell: Cell, start: int, weight: int, whole: int) -> bool:
        """Whether ``cell`` cannot be seen beside this piece: less than a pixel, and no change to be shown by it."""
        pixel = whole / PIXELS
        same = set(self.lanes) == {cell.lane} and self.cells[-1].unit == cell.unit
        return (same and (self.weight < pixel or weight < pixel)) or start + weight - self.start < pixel

    def add(self, cell: Cell, weight: int) -> None:
        self.cells.append(cell)
        self.weight += weight
        self.lanes[cell.lane] += weight

    def segment(self, whole: int, total: int) -> Segment:
        lane = max(self.lanes, key=lambda lane: (self.lanes[lane], lane != "accelerator"))
        costly = sorted(self.cells, key=lambda cell: -(cell.flops or 0))[:NAMED]
        shown = [
            Line(_name(cell), printable(cell.op_type), _share(cell, total), clip(printable(cell.reason), TEXT_LIMIT))
            for cell in costly
        ]
        counts = Counter(cell.lane for cell in self.cells)
        where = ", ".join(LANES[key] if len(counts) == 1 else f"{n} {LANES[key]}" for key, n in counts.items())
        ops = wording.plural(len(self.cells), "op")
        known = [cell.flops for cell in self.cells if cell.flops is not None]
        share = f", {percent(sum(known) / total)} of FLOPs" if known and total else ""
        unit = self.cells[0].unit if len(counts) == 1 else 0
        part = f", partition {unit}" if unit else ""
        return Segment(
            lane=lane,
            start=100 * self.start / whole,
            width=100 * self.weight / whole,
            unit=unit,
            title=f"{where}{part}: {ops}{share}",
            lines=tuple(shown),
            rest=len(self.cells) - len(shown),
        )


def brackets(cells: Sequence[Cell]) -> tuple[Bracket, ...]:
    """Runs of cells on one side, as wide as they have ops; none if there are more of them than can be told apart."""
    runs: list[list[Cell]] = []
    for cell in cells:
        if not runs or _side(runs[-1][-1]) != _side(cell):
            runs.append([])
        runs[-1].append(cell)
    if len(runs) > PIXELS // 4:
        return ()
    drawn, position = [], 0
    for run in runs:
        lane: Lane = "accelerator" if run[0].lane == "accelerator" else "cpu"
        label = f"P{run[0].unit}" if run[0].unit else LANES[lane]
        width = 100 * len(run) / len(cells)
        title = f"{'partition ' if run[0].unit else ''}{label}: {wording.plural(len(run), 'op')}"
        drawn.append(Bracket(lane, 100 * position / len(cells), width, label, title))
        position += len(run)
    return tuple(drawn)


def _side(cell: Cell) -> tuple[bool, int]:
    return cell.lane == "accelerator", cell.unit


def _totals(cells: Sequence[Cell], total: int) -> tuple[Total, ...]:
    counts = Counter(cell.lane for cell in cells)
    sums: Counter[Lane] = Counter()
    for cell in cells:
        sums[cell.lane] += cell.flops or 0
    known = any(cell.flops is not None for cell in cells) and total
    return tuple(
        Total(lane, label, counts[lane], percent(sums[lane] / total if known else None))
        for lane, label in LANES.items()
        if counts[lane]
    )


def _share(cell: Cell, total: int) -> str:
    return percent(cell.flops / total if cell.flops is not None and total else None)


def _name(cell: Cell) -> str:
    return clip(printable(cell.name), NAME_LIMIT) or "(unnamed)"


def _nodes(names: Sequence[str]) -> str:
    shown: list[str] = []
    for name in names[:8]:
        shown.append(clip(printable(name), 80) or "(unnamed)")
        if sum(map(len, shown)) > NAME_LIMIT:
            break
    more = f" and {len(names) - len(shown)} more" if names[len(shown) :] else ""
    return ", ".join(shown) + more


@cache
def _template() -> Template:
    filters: dict[str, Any] = {
        "percent": wording.percent,
        "flops": wording.flops,
        "rfc3339": wording.rfc3339,
        "target": wording.target,
        "versions": wording.versions,
        "inputs": wording.samples,
        "plural": wording.plural,
        "nodes": _nodes,
        "name": lambda text: clip(printable(text), NAME_LIMIT) or "(unnamed)",
        "clip": lambda text: clip(printable(text), TEXT_LIMIT),
        "pos": lambda value: f"{value:.4f}".rstrip("0").rstrip("."),
    }
    return template("strip.html.j2", filters)
