"""What a tap costs the application: microseconds a call, and no waiting for a disk that stalls.

Measured: the time of ``offer`` for calls that are not kept, at the default rate and with a full folder, as it is in the
long run; by size and by number of inputs. Baseline: the same loop with a call of an empty method in place of ``offer``,
alternated with it in blocks. Budget: at most 5 us a call more, as the median over blocks.
Then the wall time of each offer while every write takes half a second, all calls are considered, and the folder is
empty, so that samples wait, and are dropped, all the time. Baseline: the same beside a disk that does not stall.
Budget: at most 1 ms, p99.9.
What a call that is kept costs its thread is shown as well; one in some ten thousand is.
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks._report import Report, parser, summarize
from monitor.capture import InputTap

BLOCKS = 60
CALLS = 1000
OFFERS = 10_000
PACE = 0.0002  # seconds between the offers beside a stalled disk
STALL = 0.5  # seconds
LATENCY = 0.008  # seconds that a call is said to have taken
OVERHEAD_BUDGET = 5.0  # us
STALLED_BUDGET = 1000.0  # us

Feeds = dict[str, Any]


class Bare:
    """Stands where a tap stands."""

    def offer(self, feeds: Mapping[str, Any], seconds: float) -> None:
        """Do nothing."""


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--blocks", type=int, default=BLOCKS)
    options = arguments.parse_args()
    report = Report(f"an offer, {options.blocks} blocks of {CALLS}; median [95 % interval], us")
    with tempfile.TemporaryDirectory(prefix="npumon-bench-") as folder:
        for what, feeds in _cases():
            _overhead(report, Path(folder) / what, what, feeds, options.blocks)
        usual = _offers(Path(folder) / "usual")
        with mock.patch.object(os, "fsync", _stall):
            stalled = _offers(Path(folder) / "stalled")
        for what, feeds in _cases():
            report.row(f"a call that is kept, {what}", summarize(_keeping(feeds)).shown(".0f"))
    for name, offers in (("usual", usual), ("stalled", stalled)):
        report.raw(f"{name}_disk", offers)
    budget = f"<= {STALLED_BUDGET:g}"
    report.row("beside a usual disk, p99.9", f"{_tail(usual):.0f}")
    report.row("beside a stalled disk, p99.9", f"{_tail(stalled):.0f}", budget, _tail(stalled) <= STALLED_BUDGET)
    report.row("beside a stalled disk, slowest", f"{max(stalled):.0f}")
    return report.finish(options.out)


def _cases() -> list[tuple[str, Feeds]]:
    sizes = [("4 B", (1,)), ("588 kB", (1, 3, 224, 224)), ("4.9 MB", (1, 3, 640, 640))]
    cases: list[tuple[str, Feeds]] = [
        (f"1 input of {size}", {"x": np.ones(shape, np.float32)}) for size, shape in sizes
    ]
    cases.append(("1 input of 150,528 numbers in a list", {"x": np.zeros((1, 3, 224, 224)).tolist()}))
    return cases + [
        (f"{n} inputs of 4 kB", {f"x{i}": np.ones((1, 1000), np.float32) for i in range(n)}) for n in (2, 4, 8)
    ]


def _overhead(report: Report, folder: Path, what: str, feeds: Feeds, blocks: int) -> None:
    """Fill the folder with what no call can displace, then offer."""
    folder.mkdir()
    for number in range(64):
        (folder / f"{'slow' if number % 4 == 0 else 'fair'}-{time.time() * 1000:.0f}-0-aa-{number}.npz").touch()
    bare, tap = Bare(), InputTap(folder)
    tap.offer(feeds, LATENCY)
    while math.isinf(tap._writer.slow.threshold):
        time.sleep(0.01)
    baseline, offering = [], []
    for _ in range(blocks):
        baseline.append(_block(bare.offer, feeds))
        offering.append(_block(tap.offer, feeds))
    tap.close()
    if len(list(folder.glob("*-aa-*.npz"))) != 64:
        raise RuntimeError("something was kept: this is not what a call that is not kept costs")
    more = [1e6 * (with_tap - without) for with_tap, without in zip(offering, baseline, strict=True)]
    report.raw(what, {"bare_seconds": baseline, "offer_seconds": offering})
    summary = summarize(more)
    report.row(f"bare loop, {what}", f"{1e6 * statistics.median(baseline):.2f}")
    budget = f"<= {OVERHEAD_BUDGET:g}"
    report.row(f"offer more, {what}", summary.shown(".2f"), budget, summary.median <= OVERHEAD_BUDGET)


def _block(offer: Callable[[Mapping[str, Any], float], None], feeds: Feeds) -> float:
    start = time.perf_counter()
    for _ in range(CALLS):
        offer(feeds, LATENCY)
    return (time.perf_counter() - start) / CALLS


def _offers(folder: Path) -> list[float]:
    """Microseconds of each offer, with time between them as a model would take it."""
    tap = InputTap(folder, rate=1.0)
    feeds = {"x": np.ones((1, 1000), np.float32)}
    tap.offer(feeds, LATENCY)  # starts the thread
    offers = []
    for _ in range(OFFERS):
        time.sleep(PACE)
        start = time.perf_counter()
        tap.offer(feeds, LATENCY)
        offers.append(1e6 * (time.perf_counter() - start))
    tap.close()
    return offers


def _stall(file: int) -> None:
    time.sleep(STALL)


def _tail(offers: list[float]) -> float:
    return statistics.quantiles(offers, n=1000)[998]


def _keeping(feeds: Feeds) -> list[float]:
    """Microseconds of offers whose inputs are copied and handed over."""
    taken = []
    with tempfile.TemporaryDirectory(prefix="npumon-bench-") as folder:
        tap = InputTap(folder, keep=4000, rate=1.0, redact=lambda feeds: None)
        tap.offer(feeds, LATENCY)
        for _ in range(200):
            while tap._writer._queue.qsize():
                time.sleep(0.0002)
            start = time.perf_counter()
            tap.offer(feeds, LATENCY)
            taken.append(1e6 * (time.perf_counter() - start))
        tap.close()
    return taken


if __name__ == "__main__":
    sys.exit(main())
