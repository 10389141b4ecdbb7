"""The recent events as people read them: what happened, when, to which model, and the ID to ask further with."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from monitor.outputs import wording
from monitor.outputs.log import COLOURS
from monitor.outputs.text import WIDTH
from monitor.outputs.wording import printable
from monitor.records import Event, OpShare

TYPES: Final = 5
"""Most op types in one entry; ``npumon explain`` prints them all."""
_LINES: Final = 3  # of a reason
_COLUMNS: Final = "{:<20}  {}  {:<17}  "


def table(events: Sequence[Event], colour: bool) -> str:
    """One entry an event, in the order given; at most 100 columns, no final newline."""
    rows = [_COLUMNS.format("when", "level  ", "event") + "id"]
    for event in events:
        rows += _entry(event, colour)
    return "\n".join(rows)


def moment(timestamp: float) -> str:
    """UTC seconds since the epoch as RFC 3339 with whole seconds, as far as people care."""
    return wording.rfc3339(timestamp)[:19] + "Z"


def paragraph(text: str, label: str = "", most: int | None = None) -> list[str]:
    """``text`` behind ``label`` in lines of at most 100 columns; ``most`` of them, if not all."""
    return textwrap.wrap(
        printable(text),
        WIDTH,
        initial_indent=label,
        subsequent_indent=" " * len(label),
        max_lines=most,
        placeholder=" …",
        break_on_hyphens=False,
    )


def worst_types(ops: Iterable[OpShare], most: int, omitted: int = 0) -> str:
    """``Conv x 18, Pad and 168 more ops``: the costliest op types with their number of nodes."""
    counts: dict[str, int] = defaultdict(int)
    cost: dict[str, float] = defaultdict(float)
    for op in ops:
        counts[op.op_type] += 1
        cost[op.op_type] += wording.measured(op.flops_ratio) or 0.0
    ranked = sorted(counts, key=lambda op_type: (-cost[op_type], -counts[op_type], op_type))
    shown = [f"{name} x {counts[name]}" if counts[name] > 1 else name for name in ranked[:most]]
    rest = omitted + sum(counts[name] for name in ranked[most:])
    return ", ".join(shown) + (f" and {wording.plural(rest, 'more op')}" if rest else "")


def _entry(event: Event, colour: bool) -> Iterator[str]:
    level = f"{event.level:<7}"
    painted = f"{COLOURS[event.level]}{level}\x1b[0m" if colour else level
    row = _COLUMNS.format(moment(event.timestamp), painted, event.event)
    name = printable(event.id)
    if len(_COLUMNS.format("", level, "")) + len(name) <= WIDTH:
        yield row + name
    else:
        yield row.rstrip()
        yield from paragraph(name, "    id  ")
    yield from paragraph(f"{event.model}: {event.reason}", "    ", _LINES)
    if event.ops:
        yield from paragraph(f"on the CPU: {worst_types(event.ops, TYPES, event.ops_omitted)}", "    ", _LINES)
