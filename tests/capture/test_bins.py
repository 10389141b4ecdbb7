"""Bins: what both sides count by, and what is read from the counts."""

from __future__ import annotations

import hashlib
import math
import random
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.bins import EDGES, LADDER, STEP, TAIL, bin_of, laddered, quantile, shapes_of, slower_than
from monitor.capture import ledger

LATENCIES = st.lists(st.floats(0.0, 1000.0), min_size=1, max_size=60)


def counted(latencies: list[float]) -> list[int]:
    """The latencies by bin."""
    bins = [0] * (len(EDGES) + 1)
    for latency in latencies:
        bins[bin_of(latency)] += 1
    return bins


def test_edges_are_those_of_the_ledgers_version() -> None:
    """Who moves an edge raises the version of the file that is counted by them: 2 has other edges than 1."""
    fingerprint = hashlib.sha256(",".join(f"{edge:.9g}" for edge in EDGES).encode()).hexdigest()[:16]
    assert (ledger.VERSION, len(EDGES), fingerprint) == (1, 344, "952329cfd4e4c4b8")


def test_no_bin_is_wider_than_a_step() -> None:
    """The edges rise by 5 % at most, and the exported ladder is among them, exactly."""
    assert all(low < high <= low * STEP * (1 + 1e-12) for low, high in pairwise(EDGES))
    assert set(LADDER) <= set(EDGES)


@given(st.floats(0.0, 1000.0))
def test_a_call_is_in_the_first_bin_that_reaches_it(latency: float) -> None:
    """A bin has its upper bound and not its lower one, as Prometheus' ``le`` has; the last takes all the rest."""
    number = bin_of(latency)
    assert number == len(EDGES) or latency <= EDGES[number]
    assert number == 0 or latency > EDGES[number - 1]


@given(LATENCIES, st.floats(0.01, 1.0))
def test_a_quantile_is_the_upper_bound_of_the_bin_that_has_it(latencies: list[float], share: float) -> None:
    """It is what the exact quantile would be, rounded up to an edge."""
    ordered = sorted(latencies)
    exact = ordered[math.ceil(share * len(ordered) - 1e-9) - 1]
    assert quantile(counted(latencies), share) == (*EDGES, math.inf)[bin_of(exact)]


def test_nothing_has_no_quantile() -> None:
    """Without calls there is no latency, not even 0."""
    assert quantile(counted([]), 0.5) is None


@given(LATENCIES)
def test_the_ladder_counts_what_it_would_have_counted(latencies: list[float]) -> None:
    """Cumulative counts at the ladder's bounds are exact, because its bounds are edges."""
    expected = [(bound, sum(latency <= bound for latency in latencies)) for bound in (*LADDER, math.inf)]
    assert laddered(counted(latencies)) == expected


@given(LATENCIES, st.floats(0.01, 0.5))
def test_no_other_bound_is_nearer_to_the_share(latencies: list[float], share: float) -> None:
    """Of all bounds above the median's scatter none has a share above it that is nearer to what was asked for."""
    bound = slower_than(counted(latencies), share)

    def distance(edge: float) -> float:
        above = sum(latency > edge for latency in latencies) / len(latencies)
        return abs(math.log(above / share)) if above else math.inf

    lowest = min(TAIL * (quantile(counted(latencies), 0.5) or 0.0), EDGES[-1])
    assert bound in EDGES
    assert bound >= lowest
    assert distance(bound) <= min(distance(edge) for edge in EDGES if edge >= lowest) + 1e-9


@pytest.mark.parametrize("share", [0.002, 0.02, 0.049, 0.051, 0.1, 0.3])
@pytest.mark.parametrize("median", [0.0011, 0.0081, 0.0084])
def test_what_is_above_is_the_slow_mode(share: float, median: float) -> None:
    """Rare or frequent, the calls of a slow mode are the slow ones, and those of a narrow fast mode are not."""
    source = random.Random(5)
    slow = [source.gauss(3 * median, 0.003 * median) for _ in range(round(10_000 * share))]
    fast = [source.gauss(median, 0.02 * median) for _ in range(10_000 - len(slow))]
    bound = slower_than(counted([*fast, *slow]), 0.05)
    assert sum(latency > bound for latency in slow) >= min(len(slow), 250)
    assert sum(latency > bound for latency in fast) == 0


def test_without_a_tail_nothing_is_slow() -> None:
    """Calls that all take the same time are none of them slow; nor is there a bound beyond the last edge."""
    assert slower_than(counted([0.008] * 1000), 0.05) > 0.0085
    assert slower_than(counted([1000.0] * 1000), 0.05) == EDGES[-1]


def test_shapes_have_one_name_in_any_order() -> None:
    """Inputs are fed in any order, and a scalar has a shape, too."""
    name = shapes_of([("image", (1, 3, 224, 224)), ("again", ())])
    assert name == "again[];image[1,3,224,224]"
    assert shapes_of([("again", ()), ("image", (1, 3, 224, 224))]) == name


def test_the_parent_can_afford_them() -> None:
    """The daemon's parent, which must stay small, reads bins without loading numpy."""
    program = "import sys, monitor.bins; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
