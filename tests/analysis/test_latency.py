"""The latency signals are those of the definitions, and nonsense is refused."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.analysis.latency import Modes, modes, robust_cv, summarize
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
    assert other.robust_cv_ratio == pytest.approx(one.robust_cv_ratio, abs=1e-9)


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


def noisy(seed: int, count: int = 100, sigma: float = 0.04, *slow: float) -> tuple[float, ...]:
    """Log-normal times around 10 ms; the first are so many times slower."""
    drawn = random.Random(seed)
    factors = [*slow, *[1.0] * (count - len(slow))]
    return tuple(0.01 * factor * math.exp(drawn.gauss(0, sigma)) for factor in factors)


def test_two_modes_are_told_apart() -> None:
    """A tenth of the replays at three times the rest is a mode of that share and that separation."""
    found = summarize(Replays(noisy(1, 100, 0.04, *[3.0] * 10), ()))
    assert found.slow_ratio == pytest.approx(0.1)
    assert found.separation_ratio == pytest.approx(3.0, rel=0.03)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("sigma", [0.02, 0.05, 0.1])
def test_one_cluster_is_one_mode(seed: int, sigma: float) -> None:
    """Noise alone, however wide, has no slow mode."""
    found = summarize(Replays(noisy(seed, 30, sigma), ()))
    assert (found.slow_ratio, found.separation_ratio) == (0.0, None)


@pytest.mark.parametrize(
    "times",
    [
        (0.01,) * 30,  # no variance at all
        (0.01,) * 29 + (0.05,),  # one stall
        (0.01,) * 20 + (0.0118,) * 10,  # less than 1.2 times apart
        tuple(0.01 * 1.05**step for step in range(30)),  # evenly spread
        (0.01,) * 14 + tuple(0.01 * math.exp(step) for step in (0.25, 0.5, 0.75)) + (0.027,) * 13,  # no gap
        (0.01, 0.03),
        (0.01, 0.01, 0.03),
    ],
)
def test_what_is_no_second_mode(times: tuple[float, ...]) -> None:
    """A single stall, what lies too close, what has no gap and what is too little for two clusters are one mode."""
    assert modes(times) is None


def test_the_smallest_second_mode() -> None:
    """Two replays on either side of a gap are two modes."""
    found = modes((0.01, 0.01, 0.03, 0.03))
    assert found is not None
    assert found == pytest.approx(Modes(0.5, 3.0))


@given(st.lists(st.floats(1e-4, 1.0), min_size=4, max_size=60), st.floats(0.01, 100), st.randoms(use_true_random=False))
def test_modes_depend_neither_on_the_order_nor_on_the_unit(
    times: list[float], unit: float, shuffled: random.Random
) -> None:
    """The same replays in another order and another unit have the same slow mode, if any: a power of two is exact."""
    others = [value * 2.0 ** round(math.log2(unit)) for value in times]
    shuffled.shuffle(others)
    one, other = modes(times), modes(others)
    if one is None or other is None:
        assert one is other
    else:
        assert other == pytest.approx(one)
        assert 0 < one.slow_ratio < 1
        assert one.separation_ratio >= 1.2


def test_the_robust_spread_is_that_of_the_bulk() -> None:
    """Of normal noise it is the standard deviation, and stalls do not move it."""
    calm = noisy(3, 2000)
    assert robust_cv(calm) == pytest.approx(0.04, rel=0.08)
    assert robust_cv((*calm[20:], *[0.1] * 20)) == pytest.approx(robust_cv(calm), rel=0.05)


def test_a_disturbed_minority_is_kept_apart() -> None:
    """Replays that the kernel interrupted stay in the raw times, the median and the CV, but are no slow mode."""
    times = noisy(4, 20, 0.01, 3.0, 3.0, 3.0)
    switches = (1, 4, 2, *[0] * 17)
    found = summarize(Replays(times, (), (), switches))
    blind = summarize(Replays(times, ()))
    assert blind.slow_ratio == pytest.approx(0.15)
    assert (found.slow_ratio, found.separation_ratio, found.disturbed) == (0.0, None, (0, 1, 2))
    assert (found.replays_seconds, found.median_seconds, found.cv_ratio) == (
        times,
        blind.median_seconds,
        blind.cv_ratio,
    )
    assert found.robust_cv_ratio == pytest.approx(robust_cv(times[3:]))


def test_a_disturbed_majority_is_the_boards_normal_state() -> None:
    """Where more than a quarter of the replays is interrupted, that excuses none of them."""
    times = noisy(5, 20, 0.01, *[3.0] * 6)
    found = summarize(Replays(times, (), (), (*[1] * 6, *[0] * 14)))
    assert found.slow_ratio == pytest.approx(0.3)
    assert found.disturbed == tuple(range(6))


def test_rounds_are_one_latency() -> None:
    """The replays of all rounds count alike; their lengths, warm-ups and disturbed places are kept in order."""
    first, second = Replays((0.01, 0.02), (0.5,), (), (0, 3)), Replays((0.03, 0.04, 0.05), (), (), (1, 0, 0))
    found = summarize(first, second)
    assert found.rounds == (2, 3)
    assert found.replays_seconds == (0.01, 0.02, 0.03, 0.04, 0.05)
    assert (found.warmups_seconds, found.disturbed, found.median_seconds) == ((0.5,), (1, 2), 0.03)


def test_interruptions_that_were_not_counted_are_not_none() -> None:
    """Where one round's interruptions are not known, those of the check are not: that is no 0."""
    assert summarize(Replays((0.01, 0.01), ()), Replays((0.01, 0.01), (), (), (0, 1))).disturbed is None
    assert summarize(Replays((0.01, 0.01), (), (), (0, 0))).disturbed == ()
