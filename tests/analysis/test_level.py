"""The level of the median: a step and a drift, and a gate with a memory."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.analysis import level
from monitor.records import Digest

SEEDS = range(10)
MEDIANS = st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=40)


def series(seed: int, *levels: float, scatter: float = 0.01) -> list[Digest]:
    """Checks a minute apart whose medians scatter around these levels in seconds."""
    noise = random.Random(seed)
    medians = [one * math.exp(noise.gauss(0, scatter)) for one in levels]
    return [Digest(60.0 * number, median, 0.04, ()) for number, median in enumerate(medians)]


def first(digests: list[Digest]) -> int | None:
    """The number of checks after which a step is seen."""
    return next((number for number in range(1, len(digests) + 1) if level.step(digests[:number])), None)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("rise", "within"), [(1.3, 3), (3.0, 3), (1.15, 24)])
def test_a_step_is_found_with_its_time(seed: int, rise: float, within: int) -> None:
    """A large step shows in three checks, a small one within 24; it is told from where to where, and since when."""
    digests = series(seed, *[0.01] * 40, *[0.01 * rise] * 30)
    seen = first(digests)
    assert seen is not None
    assert 40 < seen <= 40 + within
    step = level.step(digests[:seen])
    assert step is not None
    assert step.reference == pytest.approx(0.01, rel=0.02)
    assert step.level == pytest.approx(0.01 * rise, rel=0.02)
    assert step.since == pytest.approx(40 * 60, abs=2 * 60)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "levels",
    [
        [0.01] * 300,
        [0.01 * (1 + 0.08 * math.sin(math.tau * minute / 1440)) for minute in range(1440)],
        [0.01 * (1 + 0.2 * minute / 600) for minute in range(600)],
        [0.01 * (1.08 if 30 <= minute % 60 < 40 else 1.0) for minute in range(300)],
        [0.01] * 100 + [0.02] * 2 + [0.01] * 100,
        [0.013] * 60 + [0.01] * 60,
    ],
    ids=["noise", "a day's drift", "a slow ramp", "an hourly load", "two odd checks", "a step down"],
)
def test_the_weather_is_no_step(seed: int, levels: list[float]) -> None:
    """Noise, drifts, a co-runner of ten minutes, two odd checks and a model that got faster are no step upwards."""
    assert first(series(seed, *levels)) is None


def test_a_scattering_model_must_step_further() -> None:
    """Where single checks scatter by 10 %, a rise by 15 % in a few checks is nothing yet."""
    scattered = [first(series(seed, *[0.01] * 40, *[0.0115] * 6, scatter=0.1)) for seed in SEEDS]
    assert scattered == [None] * len(SEEDS)


def test_too_little_history_has_no_step() -> None:
    """Without half of a reference nothing is known to have stepped."""
    assert level.step(series(1, *[0.01] * 14, *[0.03] * 3)) is None
    assert level.step(series(1, *[0.01] * 15, *[0.03] * 3)) is not None


@pytest.mark.parametrize(
    ("values", "beyond"),
    [((3,), True), ((1,), False), ((1, 3), False), ((1, 3, 3), False), ((1, 3, 3, 3), True), ((3, 3, 3, 1), False)],
)
def test_a_level_is_beyond_for_three_checks(values: tuple[float, ...], beyond: bool) -> None:
    """The last three, or all there are."""
    assert level.exceeds(values, 2) is beyond


@pytest.mark.parametrize(
    ("values", "beyond"), [((3, 1), False), ((3,), True), ((1, 3, 1, 3, 3), True), ((3, 3, 3, 1, 1, 3, 1), False)]
)
def test_most_of_the_checks_are_beyond(values: tuple[float, ...], beyond: bool) -> None:
    """More than half of the last five."""
    assert level.mostly_exceeds(values, 2, 5) is beyond


@pytest.mark.parametrize(
    ("values", "back"),
    [
        ((1,), True),
        ((3, 1), False),
        ((3, 3, 1, 1, 1, 1), True),
        ((3, 1, 1, 1, 3), False),
        ((1, 3, 1, 1, 1), True),
        ((3, 3, 1, 1, 1), False),
        ((1, 1, 1, 1, 1.98), False),  # below the gate, but not clearly
    ],
)
def test_coming_back_takes_longer(values: tuple[float, ...], back: bool) -> None:
    """The last check and four of the last five must be clearly within the gate."""
    assert level.is_back(values, 2) is back


@given(MEDIANS, st.floats(1e-4, 1.0))
def test_nothing_is_beyond_and_back_at_once(medians: list[float], limit: float) -> None:
    """Between exceeding and being back there is always something."""
    assert not (level.exceeds(medians, limit) and level.is_back(medians, limit))


@given(MEDIANS, st.floats(1e-4, 1.0), st.data())
def test_a_slower_check_is_never_better(medians: list[float], limit: float, data: st.DataObject) -> None:
    """One larger median never ends an excess and never brings the level back."""
    place = data.draw(st.integers(0, len(medians) - 1))
    slower = [*medians[:place], 3 * medians[place], *medians[place + 1 :]]
    assert level.exceeds(slower, limit) >= level.exceeds(medians, limit)
    assert level.mostly_exceeds(slower, limit, 7) >= level.mostly_exceeds(medians, limit, 7)
    assert level.is_back(slower, limit) <= level.is_back(medians, limit)
