"""What the verdict of one check costs the parent, and what numpy would cost it instead.

Measured: everything from the raw replays to the next state and its events (``summarize``, ``undecided``, ``assess``),
on the states that 1,500 checks of a series leave: a calm board, one that stalls in 1 % of the replays, and everything
at once (``benchmarks.detection.series``). CPU time of the thread, as it waits for nothing.
Baseline: median and CV of the same replays with the standard library, the least that a verdict needs; and the resident
memory of a bare interpreter with and without ``import numpy``.
Budget: 2 ms, for 99 of 100 checks.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from benchmarks._report import Report, parser, summarize
from benchmarks.detection.harness import checks
from benchmarks.detection.rules import Npumon, signals
from benchmarks.detection.series import HEALTHY, Track

BUDGET = 2.0  # ms
LEARNED = 1500  # checks
MEASURED = 1000
SERIES = ("log-normal 4 %", "stalls 1 %", "all together")
_RSS = "print([int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmRSS')][0] / 1024)"


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--checks", type=int, default=MEASURED)
    options = arguments.parse_args()
    report = Report(f"{options.checks} checks of 30 replays after {LEARNED}; ms of CPU time")
    for name in SERIES:
        taken, least = _series(name, options.checks)
        report.raw(name, taken)
        late = statistics.quantiles(taken, n=100)[98]
        report.row(f"{name}, median", summarize(taken).shown(".2f"))
        report.row(f"{name}, 99th percentile", f"{late:.2f}", f"<= {BUDGET:g}", late <= BUDGET)
        report.row(f"{name}, times median and CV alone", f"{statistics.median(taken) / least:.0f}")
    bare, loaded = _rss(""), _rss("import numpy; ")
    report.row("resident memory of import numpy, MiB", f"{loaded - bare:.1f}")
    return report.finish(options.out)


def _series(name: str, count: int) -> tuple[list[float], float]:
    """Milliseconds of each verdict, and the median of those of the baseline."""
    (scenario,) = (one for one in HEALTHY if one.name == name)
    random = np.random.default_rng(1)
    rule, taken, least = Npumon(), [], []
    for at, (seconds, _) in enumerate(checks(Track(scenario, random, LEARNED + count), random, 0, LEARNED + count)):

        def verdict(seconds: list[float] = seconds) -> None:
            rule.wants_more(seconds)
            rule.observe(seconds)

        cost = _cost(verdict)
        if at >= LEARNED:
            taken.append(cost)
            least.append(_cost(lambda seconds=seconds: signals(seconds)))  # type: ignore[misc]
    return taken, statistics.median(least)


def _cost(call: Callable[[], object]) -> float:
    start = time.thread_time()
    call()
    return (time.thread_time() - start) * 1e3


def _rss(first: str) -> float:
    done = subprocess.run([sys.executable, "-c", first + _RSS], check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout)


if __name__ == "__main__":
    sys.exit(main())
