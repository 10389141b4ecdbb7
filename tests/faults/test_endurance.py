"""Many checks leave nothing behind: a few hundred here; ``make endurance`` makes 50,000 and measures slopes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.endurance import Moment, ends, endure, longest, running, trend

GROWTH = 2048
"""KiB that a process may grow by while its tables fill; a kilobyte lost in each check would be less, a page more."""


def test_hundreds_of_checks_leave_no_descriptor_no_thread_and_no_memory(tmp_path: Path) -> None:
    """500 checks by one probe: as many descriptors and threads afterwards, and not a page more for each check."""
    with running(tmp_path / "daemon") as daemon:
        moments = endure(daemon, 500)
    steady(moments, 100)


@pytest.mark.slow
def test_thousands_of_checks_leave_nothing(tmp_path: Path) -> None:
    """3000 checks of the same kind."""
    with running(tmp_path / "daemon") as daemon:
        moments = endure(daemon, 3000)
    steady(moments, 1000)


def steady(moments: list[Moment], settled: int) -> None:
    """Nothing has piled up since so many checks."""
    moments = longest([one for one in moments if one.checks >= settled])
    assert moments[-1].checks - moments[0].checks >= settled
    for what in ("parent_descriptors", "probe_descriptors", "parent_threads", "probe_threads"):
        first, last = ends([getattr(one, what) for one in moments])
        assert last <= first, what
    assert moments[-1].parent_rss - moments[0].parent_rss < GROWTH
    assert moments[-1].probe_rss - moments[0].probe_rss < GROWTH


def test_a_slope_is_found_with_its_interval() -> None:
    """Planted growth lies within its interval and none within that of noise: the benchmark can fail."""
    noise = [(float(x), float(pow(5, x, 2003) % 100)) for x in range(2000)]
    flat = trend(noise)
    assert flat.low < 0 < flat.high
    assert -0.01 < flat.low < flat.high < 0.01
    grown = trend([(x, y + 0.05 * x) for x, y in noise])
    assert grown.low < 0.05 < grown.high
    assert grown.low > 0.04
