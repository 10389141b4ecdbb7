"""The latency signals are those of the definitions, and nonsense is refused."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.analysis.latency import summarize
from monitor.records import Replays

TIMES = st.lists(st.floats(1e-6, 10.0), min_size=2, max_size=50)


def test_a_known_series() -> None:
    """Median and sample standard deviation over mean; warm-ups stay apart."""
    latency = summarize(Replays((0.010, 0.012, 0.011, 0.031), (0.5, 0.4)))
    assert latency.median_seconds == pytest.approx(0.0115)
    assert latency.cv_ratio == pytest.approx(0.0100333 / 0.016, rel=1e-4)
    assert latency.replays_seconds == (0.010, 0.012, 0.011, 0.031)
    assert latency.warmups_seconds == (0.5, 0.4)


def test_one_stall_in_a_hundred_runs() -> None:
    """The design's figure: a single 3x stall in 100 healthy runs gives a CV of 20 %."""
    assert summarize(Replays((0.01,) * 99 + (0.03,), ())).cv_ratio == pytest.approx(0.2, abs=0.005)


@given(TIMES, st.floats(1e-3, 1e3))
def test_the_signals_do_not_depend_on_the_unit_or_the_order(times: list[float], unit: float) -> None:
    """Scaled times give a scaled median and the same CV, in whatever order they ran."""
    one = summarize(Replays(tuple(times), ()))
    other = summarize(Replays(tuple(time * unit for time in reversed(times)), ()))
    assert other.median_seconds == pytest.approx(one.median_seconds * unit)
    assert other.cv_ratio == pytest.approx(one.cv_ratio, abs=1e-9)
    assert one.median_seconds == statistics.median(times)


@pytest.mark.parametrize("times", [(), (0.01,)])
def test_too_few_replays(times: tuple[float, ...]) -> None:
    """One replay has no deviation: that is an error, not a CV of 0."""
    with pytest.raises(ValueError, match=rf"^{len(times)} replays: a coefficient of variation needs at least 2$"):
        summarize(Replays(times, ()))


@pytest.mark.parametrize("bad", [0.0, -0.01, math.nan, math.inf])
def test_a_time_that_is_none(bad: float) -> None:
    """NaN and its kin never reach a metric."""
    with pytest.raises(ValueError, match=r"^a replay's time is not a positive, finite number$"):
        summarize(Replays((0.01, bad, 0.01), ()))
