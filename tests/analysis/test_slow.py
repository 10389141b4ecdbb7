"""Slow replays: what happens too often is found, what boards do anyway is not, and what is over is let go."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.analysis import slow
from monitor.analysis.latency import summarize
from monitor.records import Digest, Rates, Replays, Round, Unstable
from tests.analysis.course import REPLAYS, Draw, Healthy

SEEDS = range(5)


def digested(*rounds: tuple[float, ...]) -> Digest:
    """One check of these rounds."""
    return slow.digest(summarize(*(Replays(one, ()) for one in rounds)), 0.0)


def learned(draw: Draw, checks: int) -> Rates:
    """What so many healthy checks teach."""
    rates = Rates()
    for _ in range(checks):
        rates = slow.learn(rates, digested(tuple(draw())))
    return rates


def worst(draw: Draw, rates: Rates, checks: int) -> float:
    """The least odds that any of these checks gives."""
    digests: list[Digest] = []
    least = 1.0
    for _ in range(checks):
        digests = [*digests, digested(tuple(draw()))][-slow.MOST :]
        found = slow.find(digests, rates)
        least = min(least, found.odds if found else 1.0)
    return least


def checks_until_found(draw: Draw, rates: Rates, most: int) -> int:
    """How many checks it takes; more than ``most`` if it is not found."""
    digests: list[Digest] = []
    for number in range(1, most + 1):
        digests = [*digests, digested(tuple(draw()))][-slow.MOST :]
        found = slow.find(digests, rates)
        if found and found.odds < slow.ALARM:
            return number
    return most + 1


def stalling(seed: int, share: float) -> Draw:
    """Healthy replays of which this share stalls for 2 to 10 times as long, each for another time."""
    draw, chance = Healthy(seed), random.Random(seed)

    def one() -> tuple[float, ...]:
        return tuple(value * (chance.uniform(2, 10) if chance.random() < share else 1) for value in draw())

    return one


def shared(seed: int) -> Draw:
    """Healthy replays beside a co-runner, which in two of 20 checks slows a third of them by up to 1.35x."""
    draw, chance = Healthy(seed), random.Random(seed)
    count = 0

    def one() -> tuple[float, ...]:
        nonlocal count
        count += 1
        share = 0.33 if count % 20 < 2 else 0.0
        return tuple(value * (chance.uniform(1.1, 1.35) if chance.random() < share else 1) for value in draw())

    return one


def test_a_digest_counts_by_how_slow() -> None:
    """Replays from 4/3 of the fast mode on are counted in logarithmic bins; the slowest share the last one."""
    one = digested((0.01,) * 26 + (0.0133, 0.0134, 0.03, 10.0))
    assert one.rounds == (Round(30, {0: 1, int((math.log(3) - slow.FIRST) / slow.BIN): 1, slow.BINS - 1: 1}),)
    assert (one.median_seconds, one.spread_ratio) == (0.01, 0.0)


def test_a_digest_keeps_rounds_apart() -> None:
    """Each round has its own counts, all against the fast mode of the whole check."""
    one = digested((0.01,) * 30, (0.03,) * 10 + (0.01,) * 20)
    assert [part.replays for part in one.rounds] == [30, 30]
    assert [sum(part.slow.values()) for part in one.rounds] == [0, 10]


@given(st.lists(st.floats(1e-5, 10.0), min_size=4, max_size=50), st.randoms(use_true_random=False))
def test_a_digest_does_not_depend_on_the_order(times: list[float], shuffled: random.Random) -> None:
    """Within a round the order of the replays tells nothing."""
    one = digested(tuple(times))
    shuffled.shuffle(times)
    assert digested(tuple(times)) == one


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("factor", "share", "most"), [(3.0, 0.5, 5), (3.0, 0.1, 5), (3.0, 0.05, 12), (3.0, 0.02, 60), (1.5, 0.1, 15)]
)
def test_an_intermittent_slowdown_is_found(seed: int, factor: float, share: float, most: int) -> None:
    """The rarer and the milder, the longer it takes."""
    rates = learned(Healthy(seed), 300)
    assert checks_until_found(Healthy(seed + 100).slow(share, factor), rates, most) <= most


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "series",
    [
        Healthy,
        lambda seed: Healthy(seed, sigma=0.08),
        lambda seed: stalling(seed, 0.001),
        lambda seed: stalling(seed, 0.01),
        shared,
    ],
    ids=["noise", "wide noise", "rare stalls", "stalls", "co-runner"],
)
def test_what_boards_do_anyway_is_not_found(seed: int, series: Callable[[int], Draw]) -> None:
    """Noise, stalls and a co-runner that were there while the rates were learned raise nothing in five hours."""
    assert worst(series(seed), learned(series(seed + 100), 300), 300) > slow.ALARM


@pytest.mark.parametrize("seed", SEEDS)
def test_a_young_model_is_given_the_benefit_of_the_doubt(seed: int) -> None:
    """Without anything learned, stalls in one of 300 replays raise nothing, and a tenth at 3x does."""
    assert worst(stalling(seed, 1 / 300), Rates(), 60) > slow.ALARM
    assert checks_until_found(Healthy(seed).slow(0.1), Rates(), 10) <= 10


def test_the_same_rate_is_normal_where_it_was_learned() -> None:
    """A twentieth of the replays at 3x raises on a quiet board and not where it has always been so."""
    known = learned(Healthy(1).slow(0.05), 600)
    assert worst(Healthy(2).slow(0.05), known, 200) > slow.ALARM
    assert worst(Healthy(2).slow(0.05), learned(Healthy(1), 600), 60) < slow.ALARM


def test_one_burst_is_no_rate() -> None:
    """A check that was slow for a third of its replays, alone among calm ones, is a stall of the board."""
    rates, calm = learned(Healthy(1), 300), [digested(Healthy(seed)()) for seed in range(20)]
    burst = digested(Healthy(50).slow(0.33)())
    found = slow.find([*calm, burst], rates)
    assert found is not None
    assert found.odds > slow.ALARM
    again = slow.find([*calm, burst, digested(Healthy(51).slow(0.33)())], rates)
    assert again is not None
    assert again.odds < slow.ALARM


def test_what_was_found_is_described() -> None:
    """Share beyond the usual, separation, and the bins."""
    digests = [digested(Healthy(seed).slow(0.2)()) for seed in range(10)]
    found = slow.find(digests, learned(Healthy(99), 300))
    assert found is not None
    assert found.ratio == pytest.approx(0.2, abs=0.05)
    assert found.separation == pytest.approx(3.0, rel=0.05)
    assert found.usual < 0.01
    low, high = found.band
    assert low <= (math.log(3) - slow.FIRST) / slow.BIN <= high
    spread = math.sqrt(found.ratio * (1 - found.ratio)) * (found.separation - 1)
    assert found.cv == pytest.approx(spread / (1 + found.ratio * (found.separation - 1)))


def test_nothing_slow_is_nothing_found() -> None:
    """Without a slow replay in the last check there is no finding, whatever came before."""
    assert slow.find([], Rates()) is None
    assert slow.find([digested(Healthy(1).slow(0.5)()), digested((0.01,) * REPLAYS)], Rates()) is None


def calmed(draw: Draw, incident: Unstable, rates: Rates, most: int) -> int:
    """After how many checks the incident is over; more than ``most`` if it is not."""
    for number in range(1, most + 1):
        incident = slow.calm(incident, digested(tuple(draw())), rates)
        if incident.calm >= slow.CALM * (1 - 1e-9):
            return number
    return most + 1


def incident(ratio: float) -> Unstable:
    """An open incident of a slow mode at 3x."""
    place = int((math.log(3) - slow.FIRST) / slow.BIN)
    return Unstable("m-unstable-1", 0.0, ratio=ratio, separation=3.0, band=(place - 3, place + 3))


@pytest.mark.parametrize(("ratio", "most"), [(0.5, 3), (0.1, 3), (0.02, 25)])
def test_what_is_over_is_let_go(ratio: float, most: int) -> None:
    """The rarer it was, the longer its absence must last; three checks at the least."""
    rates = learned(Healthy(1), 300)
    for seed in SEEDS:
        assert 3 <= calmed(Healthy(seed), incident(ratio), rates, most) <= most


@pytest.mark.parametrize("ratio", [0.5, 0.1, 0.05])
def test_what_goes_on_is_not_let_go(ratio: float) -> None:
    """As long as the slow mode is there, its incident stays."""
    rates = learned(Healthy(1), 300)
    for seed in SEEDS:
        assert calmed(Healthy(seed).slow(ratio), incident(ratio), rates, 120) > 120


@given(st.integers(0, 20), st.integers(0, 20), st.floats(0.01, 0.9))
def test_more_slow_replays_are_never_calmer(count: int, more: int, ratio: float) -> None:
    """The evidence for calm falls with each slow replay, and is never below nothing."""
    place = int((math.log(3) - slow.FIRST) / slow.BIN)
    fewer, others = (
        slow.calm(incident(ratio), Digest(0.0, 0.01, 0.04, (Round(60, {place: number}),)), Rates()).calm
        for number in (count, count + more)
    )
    assert 0 <= others <= fewer <= slow.CALM / 3


@given(st.lists(st.dictionaries(st.integers(0, slow.BINS - 1), st.integers(1, 30)), max_size=5))
def test_learning_adds_up(slows: list[dict[int, int]]) -> None:
    """Young rates are plain sums; the odds they lead to are probabilities."""
    rates = Rates()
    for one in slows:
        rates = slow.learn(rates, Digest(0.0, 0.01, 0.04, (Round(30, one),)))
    assert (rates.rounds, rates.replays) == (len(slows), 30 * len(slows))
    assert sum(rates.counts) == sum(sum(one.values()) for one in slows)
    found = slow.find([digested(Healthy(1).slow(0.3)())], rates)
    assert found is None or 0 <= found.odds <= 1


def test_old_rates_fade() -> None:
    """After days without stalls, those of the first day hardly count."""
    rates = learned(stalling(1, 0.02), 1500)
    before = sum(rates.counts) / rates.replays
    for _ in range(3 * int(slow.DAY)):
        rates = slow.learn(rates, Digest(0.0, 0.01, 0.04, (Round(30),)))
    assert rates.rounds == pytest.approx(slow.DAY, rel=0.01)
    assert sum(rates.counts) / rates.replays < 0.06 * before
