"""``make neighbour`` finds what it looks for: planted slowness with its interval, and nothing where nothing is."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from benchmarks._report import Report
from benchmarks.neighbour import PAIRS, RATE, SLICE, WINDOW, WINDOWS, Beat, Slice, conclude, estimate

ROUNDS = 6


def test_an_estimate_has_its_place_and_its_interval() -> None:
    """Of values around a planted one, a tenth of them far off, the interval holds the planted one and is narrow."""
    draw = random.Random(3)
    values = [0.03 + draw.gauss(0, 0.05) + (draw.choice((-2, 2)) if draw.random() < 0.1 else 0) for _ in range(400)]
    found = estimate(values)
    assert found.low < 0.03 < found.high
    assert found.high - found.low < 0.02


@pytest.mark.parametrize(("slower", "status"), [(1.0, 0), (1.05, 1)])
def test_an_application_that_is_slowed_down_is_noticed(tmp_path: Path, slower: float, status: int) -> None:
    """The budget is missed by an application that is 5 % slower beside npumon, and kept to by one that is not."""
    report, out = Report("planted"), tmp_path / "out.json"
    conclude(report, *planted(slower))
    assert report.finish(out) == status
    row = json.loads(out.read_text())["rows"][-1]
    assert row["what"] == "the 99th percentile with npumon"
    assert "too noisy" not in row["budget"]
    low, high = (float(word) for word in row["value"].partition("[")[2].partition("]")[0].split(", "))
    assert low < 100 * (slower - 1) < high


def planted(slower: float) -> tuple[list[Beat], list[list[Slice]]]:
    """Beats of an application whose latencies scatter as those of a real one, ``slower`` times so beside npumon."""
    draw = random.Random(5)
    starts = [number * WINDOW for number in range(WINDOWS * ROUNDS)]
    windows = [
        [Slice(place % 2 == 0, start + place * SLICE, start + (place + 1) * SLICE) for place in range(2 * PAIRS)]
        for start in starts
    ]
    beats = []
    for number in range(int(RATE * WINDOW * len(windows))):
        due = (number + 0.5) / RATE
        on = int(due / SLICE) % 2 == 0
        seconds = 5e-4 * draw.lognormvariate(0, 0.15) * (slower if on else 1.0)
        beats.append(Beat(due, seconds, seconds))
    return beats, windows
