"""The table of recent events: the IDs can be copied, the worst is named, and nothing is wider than the screen."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.outputs import history
from monitor.records import Event, OpShare
from tests.outputs import strategies
from tests.outputs.recorded import CLEARED, DETECTED, EVENTS
from tests.outputs.specimens import AWKWARD


def visible(table: str) -> str:
    """``table`` without its colours."""
    return re.sub(r"\x1b\[\d+m", "", table)


def test_table_golden(golden: Callable[[str, str], None]) -> None:
    """The table of five events of three incidents is the golden one."""
    golden("events.txt", history.table(EVENTS, colour=False) + "\n")


@given(st.lists(strategies.events, max_size=4), st.booleans())
def test_table_fits_100_columns(events: list[Event], colour: bool) -> None:
    """Whatever the events hold, no line is wider than 100 columns or has control characters."""
    lines = visible(history.table(events, colour)).split("\n")
    assert max(map(len, lines)) <= 100
    assert all(line.isprintable() for line in lines)


def test_levels_are_coloured_on_request() -> None:
    """Each level has the colour that it has in the log, and the words are the same without."""
    plain, coloured = history.table(EVENTS, colour=False), history.table(EVENTS, colour=True)
    assert "\x1b" not in plain
    assert "\x1b[31merror  \x1b[0m  fallback_detected" in coloured
    assert "\x1b[32minfo   \x1b[0m  fallback_cleared" in coloured
    assert visible(coloured) == plain


def test_a_long_id_is_never_cut() -> None:
    """An ID that does not fit its column has a line of its own, whole: it is there to be copied."""
    name = "m" * 64 + "-fallback-6921efc8"
    table = history.table([msgspec.structs.replace(DETECTED, id=name)], colour=False)
    assert f"\n    id  {name}\n" in table


def test_awkward_names_cannot_drive_the_terminal() -> None:
    """Escapes and line ends of names and reasons do not reach the terminal."""
    table = history.table([msgspec.structs.replace(CLEARED, model=AWKWARD, reason=AWKWARD, ops=())], colour=False)
    assert "\x1b" not in table
    assert table.count("\n") == 2


@pytest.mark.parametrize(
    ("ops", "most", "omitted", "words"),
    [
        ("Conv Conv Pad", 5, 0, "Conv x 2, Pad"),
        ("Pad Conv Conv", 1, 0, "Conv x 2 and 1 more op"),
        ("Pad Conv Conv", 1, 3, "Conv x 2 and 4 more ops"),
        ("Pad", 5, 2, "Pad and 2 more ops"),
    ],
)
def test_the_costliest_types_are_named(ops: str, most: int, omitted: int, words: str) -> None:
    """Types come by their share of FLOPs, with the number of their nodes; the rest is counted."""
    shares = [OpShare("n", op, 0.4 if op == "Conv" else 0.0, None, "why", "do") for op in ops.split()]
    assert history.worst_types(shares, most, omitted) == words
