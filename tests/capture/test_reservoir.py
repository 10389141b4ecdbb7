"""The reservoir: every call the same chance, older ones less, whatever processes and clocks do; bounds always met."""

from __future__ import annotations

import math
import os
import random
import time
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.capture.reservoir import Reservoir, rank
from tests.capture.offering import assert_uniform

NOW = time.time()
WEEK = 7 * 86_400.0


def reservoir(
    folder: Path, keep: int = 4, most_bytes: int = 10**6, half_life: float = WEEK, token: str = "aa"
) -> Reservoir:
    """A fair one."""
    return Reservoir(folder, "fair", keep, most_bytes, half_life, token)


def put(one: Reservoir, low: float, timestamp: float = NOW, size: int = 100) -> None:
    """Put a file of ``size`` bytes with the rank of the random number ``low``."""
    one.put(rank(low), timestamp, partial(_text, "x" * size), 0o600)


def ranks(folder: Path) -> set[int]:
    """The ranks of what is kept."""
    return {int(file.name.split("-")[2]) for file in folder.glob("*.npz")}


@given(st.floats(0.0, 1.0, exclude_max=True), st.floats(0.0, 1.0, exclude_max=True))
def test_ranks_order_as_their_random_numbers(one: float, other: float) -> None:
    """Every random number has a rank that fits a name, and a lower one has no higher rank."""
    assert 0 <= rank(min(one, other)) <= rank(max(one, other)) < 10**9


@given(st.floats(0.001, 0.999), st.floats(0.0, 1e10), st.floats(1.0, 1e10))
def test_a_half_life_halves_the_chance(low: float, timestamp: float, half_life: float) -> None:
    """A call of a half-life ago is ordered as one of now whose exponential variate is twice as large."""
    variate = -math.log1p(-low)
    double = rank(-math.expm1(-2 * variate))
    some = reservoir(Path(), half_life=half_life)
    aged, fresh = some.key(rank(low), timestamp), some.key(double, timestamp + half_life)
    assert aged == pytest.approx(fresh, abs=1e-3)


def test_the_lowest_ranks_stay(tmp_path: Path) -> None:
    """Of many the lowest ranks are kept, in whatever order they came, and the threshold is the highest of them."""
    some = reservoir(tmp_path)
    lows = [0.5, 0.1, 0.9, 0.3, 0.2, 0.8, 0.05]
    for low in lows:
        put(some, low)
    assert ranks(tmp_path) == {rank(low) for low in (0.05, 0.1, 0.2, 0.3)}
    assert some.threshold == pytest.approx(some.key(rank(0.3), NOW), abs=1e-6)


def test_every_call_has_the_same_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of 10,000 calls is uniform over them, though early and late ones meet different folders."""
    monkeypatch.setattr(os, "fsync", lambda file: None)  # hundreds of waits that tell nothing about chances
    source = random.Random(7)
    places = []
    for number in range(8):
        folder = tmp_path / str(number)
        folder.mkdir()
        some = reservoir(folder, keep=48)
        for call in range(10_000):
            drawn = rank(source.random())
            if some.key(drawn, NOW) < some.threshold:
                some.put(drawn, NOW, partial(_text, str(call)), 0o600)
        places += [int(file.read_text()) / 10_000 for file in folder.glob("*.npz")]
    assert len(places) == 384
    assert_uniform(places)


def _text(text: str, stream: BinaryIO) -> None:
    stream.write(text.encode())


def test_older_calls_fade_with_the_half_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of equally many calls in each of four half-lives, each is kept about half as often as the next."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
    source = random.Random(8)
    some = reservoir(tmp_path, keep=150, half_life=1000.0)
    for call in range(4000):
        timestamp = NOW - 4000.0 + call
        drawn = rank(source.random())
        if some.key(drawn, timestamp) < some.threshold:
            some.put(drawn, timestamp, partial(_text, str(call)), 0o600)
    counts = [0] * 4
    for file in tmp_path.glob("*.npz"):
        counts[int(file.read_text()) // 1000] += 1
    # A call of age a is kept if its variate is below 2**-a times the one at which 150 are.
    weights = [2.0 ** (call / 1000) for call in range(4000)]
    low, high = 0.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(-math.expm1(-w * middle) for w in weights) < 150 else (low, middle)
    expected = [sum(-math.expm1(-w * low) for w in weights[1000 * n : 1000 * n + 1000]) for n in range(4)]
    chi_square = sum((seen - wanted) ** 2 / wanted for seen, wanted in zip(counts, expected, strict=True))
    assert chi_square < 30.7, (counts, expected)  # 3 degrees of freedom: p = 1e-6


def test_two_processes_fill_one_sample(tmp_path: Path) -> None:
    """What two put is the lowest of both, as if one had put it all."""
    one, other = reservoir(tmp_path), reservoir(tmp_path, token="bb")
    for low in (0.9, 0.7, 0.5, 0.3, 0.1):
        put(one, low)
        put(other, low - 0.05)
    assert ranks(tmp_path) == {rank(low) for low in (0.3 - 0.05, 0.3, 0.1 - 0.05, 0.1)}


def test_bytes_are_bounded(tmp_path: Path) -> None:
    """Beyond the bytes the highest ranks go, and the threshold keeps more of the largest kind from being written."""
    some = reservoir(tmp_path, keep=100, most_bytes=1000)
    for number in range(20):
        put(some, 0.9 - 0.02 * number, size=300)
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 1000
    assert len(ranks(tmp_path)) == 3
    assert some.threshold == pytest.approx(some.key(max(ranks(tmp_path)), NOW), abs=1e-6)


def test_a_large_file_that_has_no_room_is_not_written_again_and_again(tmp_path: Path) -> None:
    """Where sizes differ, the threshold remembers the largest, so that the disk is not worn for nothing."""
    some = reservoir(tmp_path, keep=100, most_bytes=1000)
    for low in (0.1, 0.2, 0.3):
        put(some, low, size=200)
    put(some, 0.9, size=600)
    assert ranks(tmp_path) == {rank(low) for low in (0.1, 0.2, 0.3)}
    assert some.threshold < some.key(rank(0.9), NOW)


def test_smaller_bounds_hold_at_once(tmp_path: Path) -> None:
    """A file that alone exceeds new bounds goes, and not all that are ordered behind it."""
    before = reservoir(tmp_path, most_bytes=10_000)
    put(before, 0.1, size=5000)
    for low in (0.2, 0.3):
        put(before, low)
    reservoir(tmp_path, most_bytes=1000, token="bb").prune()
    assert ranks(tmp_path) == {rank(0.2), rank(0.3)}


def test_an_emptied_folder_fills_again(tmp_path: Path) -> None:
    """Who removes the samples starts a new sample: the threshold is forgotten with them."""
    some = reservoir(tmp_path)
    for low in (0.1, 0.2, 0.3, 0.4, 0.5):
        put(some, low)
    for file in tmp_path.iterdir():
        file.unlink()
    some.prune()
    assert some.threshold == math.inf
    put(some, 0.99)
    assert ranks(tmp_path) == {rank(0.99)}


def test_kinds_do_not_mix(tmp_path: Path) -> None:
    """The slow part and other files of the folder are none of the fair part's business."""
    slow = Reservoir(tmp_path, "slow", 4, 10**6, WEEK, "aa")
    put(slow, 0.99)
    (tmp_path / "mine.npz").touch()
    (tmp_path / "fair-1-notes.npz").touch()
    some = reservoir(tmp_path)
    for low in (0.1, 0.2, 0.3, 0.4, 0.5):
        put(some, low)
    assert len(list(tmp_path.glob("slow-*"))) == 1
    assert (tmp_path / "mine.npz").exists()
    assert (tmp_path / "fair-1-notes.npz").exists()


def test_a_clock_that_was_ahead_does_no_lasting_harm(tmp_path: Path) -> None:
    """Files from the future count as made now, so that they do not keep out what really comes."""
    some = reservoir(tmp_path)
    for low in (0.5, 0.6, 0.7, 0.8):
        put(some, low, NOW + 10 * 365 * 86_400)
    assert all(int(file.name.split("-")[1]) / 1000 < time.time() + 1 for file in tmp_path.glob("*.npz"))
    for low in (0.1, 0.2, 0.3):
        assert some.key(rank(low), NOW) < some.threshold
        put(some, low)
    assert ranks(tmp_path) == {rank(low) for low in (0.1, 0.2, 0.3, 0.5)}


def test_a_clock_that_was_behind_does_no_lasting_harm(tmp_path: Path) -> None:
    """A board starts in 1970 until it knows better: what was kept then gives way to what comes now."""
    some = reservoir(tmp_path)
    for low in (0.1, 0.2, 0.3, 0.4):
        put(some, low, 12.0)
    for low in (0.6, 0.7, 0.8, 0.9):
        assert some.key(rank(low), NOW) < some.threshold
        put(some, low)
    assert ranks(tmp_path) == {rank(low) for low in (0.6, 0.7, 0.8, 0.9)}
