"""The ticket: complete, plain, and with commands that work when they are pasted into a shell."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor import arguments, cli
from monitor.config import Model
from monitor.outputs import ticket
from monitor.outputs.ticket import Case
from monitor.records import BoardReading, Clock, Event, Incident, Zone
from tests.outputs import strategies
from tests.outputs.recorded import BROKEN, CHANGED, CLEARED, DETECTED, DETECTOR, FALLEN_STATE, SLOW
from tests.outputs.specimens import FAILED, FALLBACK

CONFIG = Path("/etc/npumon/npumon.toml")


def case(*events: Event, **more: Any) -> Case:
    """The case of these events."""
    known = {"incident": None, "last": None, "subject": None, "provider": "qnn", "config": CONFIG}
    return Case(**{"id": events[0].id, "model": events[0].model, "events": events} | known | more)


CASES = {
    "fallback": case(DETECTED, CHANGED, CLEARED, subject=Model("swift_f0", Path("/opt/models/swift_f0.onnx"))),
    "open": case(DETECTED, incident=FALLEN_STATE.fallback, last=FALLBACK),
    "slow": case(SLOW, incident=Incident(SLOW.id, SLOW.timestamp), subject=DETECTOR),
    "failed": case(BROKEN, last=FAILED, subject=Model("ppocr_det", Path("/opt/models/ppocr_det.onnx"))),
}

clocks = st.dictionaries(strategies.names, st.builds(Clock, *[strategies.maybe(st.floats(0, 1e11))] * 3), max_size=2)
readings = st.builds(
    BoardReading,
    st.floats(0, 1e9),
    st.dictionaries(strategies.names, st.builds(Zone, st.floats(-50, 200), strategies.maybe(st.floats(0, 200)))),
    clocks,
    clocks,
    st.dictionaries(strategies.names, st.floats(0, 1e9), max_size=2),
    st.dictionaries(strategies.names, strategies.texts, max_size=2),
    st.dictionaries(strategies.names, st.booleans(), max_size=2),
)
events = st.builds(
    lambda event, reading, ratio: msgspec.structs.replace(event, readings=reading, slow_ratio=ratio),
    strategies.events,
    strategies.maybe(readings),
    strategies.maybe(strategies.ratios),
)


@pytest.mark.parametrize("name", CASES)
def test_ticket_golden(name: str, golden: Callable[[str, str], None]) -> None:
    """The ticket of a fallback that came and went, one that is open, a slow accelerator and a failure."""
    golden(f"ticket_{name}.txt", ticket.text(CASES[name]) + "\n")


@given(st.lists(events, min_size=1, max_size=4), strategies.maybe(strategies.results))
def test_a_ticket_fits_100_columns(told: list[Event], last: Any) -> None:
    """Whatever the events hold, no line but a command is wider than 100 columns or has control characters."""
    text = ticket.text(case(*told, last=last))
    lines = text.partition("\nTo see it again\n")[0].split("\n")
    assert max(map(len, lines)) <= 100
    assert all(line.isprintable() for line in lines)


def test_nothing_is_cut_that_the_events_hold() -> None:
    """Every node and the whole reason of an op stand in the ticket, however long."""
    long = "because " * 300
    ops = [msgspec.structs.replace(op, reason=long) for op in DETECTED.ops]
    text = " ".join(ticket.text(case(msgspec.structs.replace(DETECTED, ops=tuple(ops)))).split())
    assert "…" not in text
    assert all(op.node in text for op in ops)
    assert text.count("because") == 300 * len({op.remedy for op in ops})


def test_a_fact_is_said_again_only_where_it_changed() -> None:
    """One version of the runtime and one board are told once, with the event that showed them first."""
    same = ticket.text(case(DETECTED, msgspec.structs.replace(CHANGED, runtime=DETECTED.runtime)))
    other = ticket.text(case(DETECTED, CHANGED))
    assert (same.count("What ran at"), other.count("What ran at")) == (1, 2)
    assert same.count("The board at") == other.count("The board at") == 1


def test_figures_that_nobody_measured_have_no_column() -> None:
    """The table has columns for what some event has, dashes where another has not, and is absent without figures."""
    text = ticket.text(case(DETECTED, SLOW))
    assert "slow share" in text
    assert "baseline" in text
    assert "slow share" not in ticket.text(case(DETECTED))
    assert "Figures" not in ticket.text(case(BROKEN))


@pytest.mark.parametrize(
    ("told", "line"),
    [
        ((DETECTED, CLEARED), "status      over: from 2025-11-22T16:30:00Z to 2025-11-22T18:30:00Z"),
        ((DETECTED,), "status      no longer open, and not told as over"),
        ((msgspec.structs.replace(BROKEN, event="model_changed"),), "status      happened at 2025-11-22T16:31:30Z"),
        ((CLEARED,), "status      over since 2025-11-22T18:30:00Z"),
        ((CLEARED,), "  (earlier events of it are no longer kept)"),
    ],
)
def test_the_status_is_what_is_known(told: tuple[Event, ...], line: str) -> None:
    """Whether it is over, was never open, or lost its beginning, is said as it is."""
    assert line in ticket.text(case(*told)).split("\n")


def test_an_incident_outlives_its_events() -> None:
    """Of one that is open although all its events are gone, the ticket says what is still known."""
    old = Case(DETECTED.id, "swift_f0", (), FALLEN_STATE.fallback, FALLBACK, None, "qnn", CONFIG)
    text = ticket.text(old)
    assert "status      open since 2025-11-22T16:30:00Z" in text
    assert "its events are so old that they are no longer kept" in text


def test_the_commands_describe_the_model_as_it_is_configured() -> None:
    """What the ticket tells to run is parsed by npumon itself into the same session."""
    spec = msgspec.structs.replace(DETECTOR, name="the detector")
    lines = ticket.text(case(SLOW, subject=spec, provider="vitisai")).split("\n")
    start = next(number for number, line in enumerate(lines) if line.startswith("  npumon audit"))
    end = next(number for number in range(start, len(lines)) if not lines[number].endswith("\\"))
    pasted = "\n".join(["printf '%s\\n' \\", *lines[start : end + 1]])
    words = subprocess.run(["sh", "-c", pasted], capture_output=True, text=True, check=True).stdout.splitlines()
    assert words[:2] == ["npumon", "audit"]
    context = cli.audit.make_context("audit", words[2:])
    assert context.params.pop("as_json")
    assert context.params.pop("provider") == "vitisai"
    read = arguments.subject(**{key: context.params[key] for key in context.params if key not in ("html", "deep")})
    assert read == msgspec.structs.replace(spec, timeout=60.0)


def test_a_model_that_is_no_longer_configured_has_a_stand_in() -> None:
    """Without a configuration the options that were observed are used, and MODEL stands for the file."""
    text = ticket.text(case(DETECTED))
    assert "  npumon audit MODEL -o soc_model=60 --json\n" in text
    assert "MODEL stands for its file" in text
    assert "To send along" not in text
