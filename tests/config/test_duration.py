"""Durations as text: exact to the nanosecond, and nothing guessed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.duration import UNITS, format_duration, parse_duration


@given(st.integers(min_value=0, max_value=30 * UNITS["d"]))
def test_durations_survive_the_round_trip(nanoseconds: int) -> None:
    """What is formatted parses back to the same float, to the nanosecond."""
    seconds = nanoseconds / 10**9
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("60s", 60.0),
        ("12ms", 0.012),
        ("6h", 21600.0),
        ("1m30s", 90.0),
        ("1.5h", 5400.0),
        ("250us", 0.00025),
        ("1d1us", 86400.000001),
    ],
)
def test_durations_are_the_nearest_float(text: str, seconds: float) -> None:
    """A duration is exactly the float that a programmer would write for it."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "60", "s", "60 s", " 60s", "60s\n", "-1s", "+1s", "1e3s", "1,5s", ".5s", "1.s", "5M", "1s1m", "1s1s", "٣s"],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    """No unit, a sign, blanks, other digits, units in the wrong order: none of it is guessed at."""
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@given(st.text(max_size=12) | st.from_regex(r"\A([0-9]{1,12}(\.[0-9]{1,12})?(d|h|m|s|ms|us)){1,4}\Z"))
def test_any_text_is_a_finite_duration_or_a_value_error(text: str) -> None:
    """Whatever the text, the result is a finite number of seconds, or ValueError."""
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert 0 <= seconds < math.inf
