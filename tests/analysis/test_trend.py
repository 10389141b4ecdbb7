"""Trends, correlations and differences of series that remember: what is planted is found, what only wanders is not."""

from __future__ import annotations

import math
import random
import statistics
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.analysis.trend import blocks, correlation, difference, growth, quantile, rise, superiority, trend

Series = list[float]


def wandering(chance: random.Random, count: int, memory: float, scatter: float = 0.01) -> Series:
    """An AR(1) series whose values scatter by ``scatter``."""
    value = chance.gauss(0, scatter)
    step = scatter * math.sqrt(1 - memory**2)
    series = []
    for _ in range(count):
        value = memory * value + chance.gauss(0, step)
        series.append(value)
    return series


def over_time(series: Series, more: float = 0.0) -> list[list[tuple[float, float]]]:
    """One stretch, with ``more`` added from its start to its end."""
    return [[(float(at), value + more * at / len(series)) for at, value in enumerate(series)]]


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.8, 0.95])
def test_what_only_wanders_is_no_trend(memory: float) -> None:
    """In 1000 series without a trend, at most 1 % + chance is found one that is as large as a drift must be."""
    chance = random.Random(int(memory * 100))
    alarms = 0
    for _ in range(1000):
        found = rise(over_time(wandering(chance, 40, memory)))
        alarms += found is not None and (found.low > 0 or found.high < 0) and abs(found.slope * 40) > 0.03
    # 1 % of 1000, and three standard deviations of that count.
    assert alarms <= 10 + 3 * math.sqrt(10)


@pytest.mark.parametrize(("memory", "noise", "most"), [(0.95, 0.03, 0.05), (0.98, 0.02, 0.09)])
def test_weather_that_noise_hides_is_seldom_a_trend(memory: float, noise: float, most: float) -> None:
    """Where a median's own noise lies over slow weather, which no neighbour shows, few of 200 series have a trend."""
    chance = random.Random(12)
    alarms = 0
    for _ in range(200):
        series = [value + chance.gauss(0, noise) for value in wandering(chance, 160, memory, 0.02)]
        found = rise(over_time(series))
        alarms += found is not None and (found.low > 0 or found.high < 0) and abs(found.slope * 160) > 0.03
    assert alarms <= most * 200


def test_weather_that_noise_hides_is_seldom_a_difference() -> None:
    """Two long runs of one level are not told apart because each has slow weather under the noise of its checks."""
    chance = random.Random(13)
    alarms = 0
    for _ in range(40):
        runs = [[value + chance.gauss(0, 0.03) for value in wandering(chance, 1500, 0.99, 0.02)] for _ in "ab"]
        found = difference(runs[0], runs[1], rounds=299)
        alarms += found is not None and found.p < 0.01 and (found.low > 0 or found.high < 0)
    assert alarms <= 4


def test_the_interval_covers_what_it_says() -> None:
    """Without memory, the true slope lies within the interval of 99 % in all but some 1 % of 1000 series."""
    chance = random.Random(5)
    missed = 0
    for _ in range(1000):
        found = trend(over_time(wandering(chance, 40, 0.0), more=0.04))
        assert found is not None
        missed += not found.low <= 0.04 / 40 <= found.high
    assert missed <= 10 + 3 * math.sqrt(10)


@pytest.mark.parametrize("memory", [0.0, 0.5])
def test_a_planted_trend_is_found(memory: float) -> None:
    """5 % over the run are found in nearly all series that scatter by 1 %, and measured without a bias."""
    chance = random.Random(11)
    found = [rise(over_time(wandering(chance, 120, memory), more=0.05)) for _ in range(60)]
    sizes = [one.slope * 120 for one in found if one is not None and one.low > 0]
    assert len(sizes) >= 57
    assert statistics.fmean(sizes) == pytest.approx(0.05, abs=0.002)


def test_a_rise_along_a_curve_is_found() -> None:
    """What rises by 70 % without noise is no straight line of logarithms, and yet only a rise; so is its fall."""
    chance = random.Random(14)
    curve = [math.log(1 + 0.7 * at / 45) + chance.gauss(0, 0.004) for at in range(45)]
    assert trend(over_time(curve)) is None  # what is left beside the line looks like slow weather
    found = rise(over_time(curve))
    assert found is not None
    assert 0 < found.low < math.log(1.7) / 45 < found.high
    back = rise(over_time([-value for value in curve]))
    assert back is not None
    assert (back.slope, back.high) == pytest.approx((-found.slope, -found.low))
    # A rise and a fall of the same size are none of the two.
    there_and_back = rise(over_time([*curve, *reversed(curve)]))
    assert there_and_back is None or there_and_back.low < 0 < there_and_back.high


def test_levels_of_strata_are_their_own() -> None:
    """Steps between stretches are no trend, however large; one that goes on within all of them is."""
    chance = random.Random(3)
    level = [[(at + 100.0 * part, 5.0 * part + chance.gauss(0, 0.01)) for at in range(20)] for part in range(4)]
    found = trend(level)
    assert found is not None
    assert found.low <= 0 <= found.high
    rising = [[(x, y + 0.01 * x) for x, y in stratum] for stratum in level]
    found = trend(rising)
    assert found is not None
    assert found.low > 0
    assert found.slope == pytest.approx(0.01, abs=0.002)


def test_one_large_step_is_no_growth_and_steady_ones_are() -> None:
    """Memory that was taken once is no leak; what is added to it at each check is, also on top of a random walk."""
    chance = random.Random(2)
    step = [(float(at), 100.0 + (50.0 if at > 30 else 0.0)) for at in range(60)]
    found = growth([step])
    assert found is None or found.low <= 0
    leak, value = [], 0.0
    for at in range(60):
        value += 1.0 + chance.gauss(0, 0.5)
        leak.append((float(at), value))
    found = growth([leak])
    assert found is not None
    assert found.low > 0.5
    assert found.slope == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
def test_memory_that_wanders_is_no_growth(memory: float) -> None:
    """In 1000 series of memory that comes and goes, at most 1 % + chance is said to grow."""
    chance = random.Random(8)
    alarms = 0
    for _ in range(1000):
        found = growth(over_time(wandering(chance, 40, memory)))
        alarms += found is not None and found.low > 0
    assert alarms <= 10 + 3 * math.sqrt(10)


@pytest.mark.parametrize(("one", "other"), [(0.0, 0.0), (0.8, 0.8), (0.95, 0.9)])
def test_series_that_wander_apart_do_not_follow_each_other(one: float, other: float) -> None:
    """Of 1000 pairs of independent series, at most 1 % + chance is said to be related."""
    chance = random.Random(4)
    alarms = 0
    for _ in range(1000):
        pairs = list(zip(wandering(chance, 40, one), wandering(chance, 40, other), strict=True))
        found = correlation(pairs)
        alarms += found is not None and (found.low > 0 or found.high < 0)
    assert alarms <= 10 + 3 * math.sqrt(10)


def test_a_latency_that_follows_a_temperature_is_found() -> None:
    """Also where the temperature itself only wanders slowly."""
    chance = random.Random(6)
    heat = wandering(chance, 150, 0.95, 3.0)
    found = correlation([(celsius, 8 + 0.05 * celsius + chance.gauss(0, 0.02)) for celsius in heat])
    assert found is not None
    assert found.low > 0.3
    assert correlation([(40.0, value) for value in heat]) is None


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.8])
def test_two_runs_of_the_same_thing_do_not_differ(memory: float) -> None:
    """Of 300 pairs of runs with one level, interval and permutation test together tell some 1 % apart at most."""
    chance = random.Random(9)
    alarms = 0
    for _ in range(300):
        runs = [wandering(chance, 100, memory) for _ in "ab"]
        found = difference(runs[0], runs[1], rounds=299)
        alarms += found is not None and found.p < 0.01 and (found.low > 0 or found.high < 0)
    assert alarms <= 3 + 3 * math.sqrt(3)


def test_a_slower_run_is_told_apart() -> None:
    """5 % more, where checks scatter by 1 % and remember each other: the size, its interval, and how often."""
    chance = random.Random(10)
    runs = [wandering(chance, 300, 0.5), [value + 0.05 for value in wandering(chance, 300, 0.5)]]
    found = difference(runs[0], runs[1])
    assert found is not None
    assert 0.04 < found.low < 0.05 < found.high < 0.06
    assert found.p < 0.001
    assert found.superiority > 0.99
    back = difference(runs[1], runs[0])
    assert back is not None
    assert back.shift == pytest.approx(-found.shift)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30), st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30))
def test_superiority_counts_pairs(one: Series, other: Series) -> None:
    """The effect size is what counting all pairs gives."""
    wins = sum((b > a) + 0.5 * (b == a) for a in one for b in other)
    assert superiority(one, other) == pytest.approx(wins / (len(one) * len(other)))


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(-1e6, 1e6)), max_size=60, unique_by=lambda pair: pair[0]),
    st.floats(0.5, 100),
)
def test_a_trend_scales_with_its_values(points: list[tuple[float, float]], factor: float) -> None:
    """Whatever the points are, a trend is finite and ordered, and in other units it is the same trend."""
    ordered = sorted(points)
    if any(later[0] - earlier[0] < 1e-3 for earlier, later in pairwise(ordered)):
        return
    found = trend([ordered])
    scaled = trend([[(x, round(y, 3) * factor) for x, y in ordered]])
    if found is not None:
        assert found.low <= found.slope <= found.high
        assert all(map(math.isfinite, found))
    if scaled is not None:
        plain = trend([[(x, round(y, 3)) for x, y in ordered]])
        assert plain is not None
        assert scaled.slope == pytest.approx(plain.slope * factor, rel=1e-6, abs=1e-9)


def test_blocks_are_longer_where_memory_is() -> None:
    """A series that remembers is cut into fewer blocks."""
    chance = random.Random(1)
    assert len(blocks(wandering(chance, 200, 0.0))) > 2 * len(blocks(wandering(chance, 200, 0.8))) > 0


@pytest.mark.parametrize(("freedom", "known"), [(5, 4.032), (10, 3.169), (30, 2.750), (1000, 2.581)])
def test_student_quantiles(freedom: float, known: float) -> None:
    """The quantiles are those of the tables, to 2 %."""
    assert quantile(freedom, 0.99) == pytest.approx(known, rel=0.02)
