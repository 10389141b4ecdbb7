"""Whether 50,000 checks leave anything in npumon: five weeks of checks at a minute's interval.

Measured: a real ``npumon run`` on the simulator with a very small model, checked without a pause (interval 1 ms, two
replays, ``max_duty = 1``). Each second: checks so far, resident memory, descriptors and threads of the parent and the
probe, how long the last check took, the parent's processor time, and the size of the state. As many checks are made
before those that count: caches and tables fill up to their limits then (what was spent in the last ten minutes is the
largest), and the allocator's arenas find their size. An alarm about latency, which a busy machine raises, has the probe
renewed once an hour; figures are those of the probe that lived longest.
Baseline: the run's own beginning. Times are divided by that of a fixed piece of work, done by the benchmark in the same
second: a shared machine is faster at one time than at another, which is no drift of npumon's. A slope is Theil and
Sen's over the medians of 40 stretches of the run, its 95 % interval from Kendall's S; stretches, because neighbouring
seconds repeat each other.
Budgets: descriptors and threads become no more; memory grows by at most 10 KiB in 1000 checks, which is 5 MiB in
a year; a check takes at most 10 % longer at the end than at the beginning, and as little more of the parent's processor
time; the state stays below 16 MiB. A budget is kept to if all of the slope's interval is.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks._report import Report, Summary, cpu_seconds, parser, status

CHECKS = 50_000
SETTLING = 50_000
STRETCHES = 40
GROWTH = 10.0  # KiB in 1000 checks
DRIFT = 0.10  # over the whole run
STATE = 16.0  # MiB
WORK = 200_000  # turns of an empty loop, some 5 ms
FIRST_CHECK = 120.0  # seconds

BUILD = """\
import sys, onnx
from monitor.probe.demo_model import build
onnx.save(build((1, 4, 4), 2), sys.argv[1])
"""
CONFIG = """\
[monitor]
listen = "127.0.0.1:{port}"
state = "state"
interval = "1ms"
audit_interval = "30d"
max_duty = 1.0
[runtime.options]
soc_model = "60"
[[models]]
name = "m"
path = "{model}"
replays = 2
session = {{ intra_op_num_threads = 1, "session.intra_op.allow_spinning" = "0" }}
[models.gate]
cv = 1000.0
median = "10s"
"""


class Moment(NamedTuple):
    """The daemon at one moment: memory in KiB, times in seconds, the state in MiB.

    ``work_seconds`` is what the fixed piece of work took.
    """

    checks: float
    parent_rss: float
    probe_rss: float
    parent_descriptors: int
    probe_descriptors: int
    parent_threads: int
    probe_threads: int
    probe: int
    check_seconds: float
    parent_cpu: float
    state: float
    work_seconds: float


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--checks", type=int, default=CHECKS, help="how many checks count")
    arguments.add_argument("--settling", type=int, default=SETTLING, help="how many checks are made before these")
    options = arguments.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="npumon-bench-") as folder:
        moments = endure(Path(folder), options.settling + options.checks)
    report = Report(f"{moments[-1].checks:,.0f} checks in {(time.monotonic() - begin) / 60:.1f} min")
    report.raw("moments", [moment._asdict() for moment in moments])
    settled = [one for one in moments if one.checks >= options.settling]
    grown = (settled[0].parent_rss - moments[0].parent_rss) / 1024
    report.row("growth of the parent while it settled", f"{grown:.1f} MiB")
    report.row("probes that were needed", str(len({one.probe for one in settled})))
    settled = longest(settled)
    report.row("checks that the figures are of", f"{settled[-1].checks - settled[0].checks:,.0f}")
    conclude(report, settled)
    return report.finish(options.out)


def conclude(report: Report, moments: Sequence[Moment]) -> None:
    """The rows of the table."""
    for who in ("parent", "probe"):
        slope = trend([(one.checks / 1000, float(getattr(one, f"{who}_rss"))) for one in moments])
        level = statistics.median(getattr(one, f"{who}_rss") for one in moments) / 1024
        report.row(f"RSS of the {who}, median", f"{level:.1f} MiB")
        report.row("  growth in 1000 checks", f"{slope.shown('+.2f')} KiB", f"<= {GROWTH:g} KiB", slope.high <= GROWTH)
    for what in ("descriptors", "threads"):
        for who in ("parent", "probe"):
            first, last = ends([getattr(one, f"{who}_{what}") for one in moments])
            report.row(f"{what} of the {who}, at both ends", f"{first}, {last}", "no more", last <= first)
    pace = [one.work_seconds / statistics.median(one.work_seconds for one in moments) for one in moments]
    durations = [(one.checks, one.check_seconds / slow) for one, slow in zip(moments, pace, strict=True)]
    _drift(report, "duration of a check", durations)
    each = [
        (later.checks, (later.parent_cpu - earlier.parent_cpu) / (later.checks - earlier.checks) / slow)
        for (earlier, later), slow in zip(itertools.pairwise(moments), pace[1:], strict=True)
        if later.checks > earlier.checks
    ]
    _drift(report, "the parent's processor time for a check", each)
    _drift(report, "the fixed piece of work", [(one.checks, one.work_seconds) for one in moments], False)
    largest = max(one.state for one in moments)
    report.row("the state at most", f"{largest:.1f} MiB", f"<= {STATE:g} MiB", largest <= STATE)


def _drift(report: Report, what: str, points: Sequence[tuple[float, float]], budgeted: bool = True) -> None:
    level, length = statistics.median(y for _, y in points), points[-1][0] - points[0][0]
    slope = trend([(x / length, 100 * y / level) for x, y in points])
    report.row(f"{what}, median", f"{1e3 * level:.2f} ms")
    budget = (f"<= +{100 * DRIFT:g} %", slope.high <= 100 * DRIFT) if budgeted else ()
    report.row("  change over the run", f"{slope.shown('+.1f')} %", *budget)


def trend(points: Sequence[tuple[float, float]]) -> Summary:
    """Theil and Sen's slope with its 95 % interval (Sen, JASA 63, 1968), over the medians of equal stretches."""
    count = min(STRETCHES, len(points))
    cuts = [round(index * len(points) / count) for index in range(count + 1)]
    parts = [points[begin:end] for begin, end in itertools.pairwise(cuts)]
    places = [(statistics.median(x for x, _ in part), statistics.median(y for _, y in part)) for part in parts]
    slopes = sorted((b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.combinations(places, 2) if b[0] > a[0])
    reach = 1.96 * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    low = max(0, math.floor((len(slopes) - reach) / 2))
    high = min(len(slopes) - 1, math.ceil((len(slopes) + reach) / 2))
    return Summary(statistics.median(slopes), slopes[low], slopes[high])


def ends(counts: Sequence[int]) -> tuple[int, int]:
    """The smallest of the first and of the last third: a scrape or a write holds one more for a moment."""
    third = max(1, len(counts) // 3)
    return min(counts[:third]), min(counts[-third:])


# ------------------------------------------------------------------------------------------------------ npumon


def endure(folder: Path, checks: int) -> list[Moment]:
    """Run a daemon in ``folder`` for so many checks; what it was like each second."""
    moments: list[Moment] = []
    with _npumon(folder) as (parent, url):
        while not moments or moments[-1].checks < checks:
            time.sleep(1 if checks > 1000 else 0.1)
            # While a probe is renewed, and a study or a comparison is made, there is none or more than one.
            with contextlib.suppress(OSError, LookupError, ValueError):
                moments.append(_moment(parent, url, folder / "state"))
    return moments


def longest(moments: Sequence[Moment]) -> list[Moment]:
    """The moments of the probe that made most checks, from its first check on."""
    parts = [list(part) for _, part in itertools.groupby(moments, lambda one: one.probe)]
    part = max(parts, key=lambda part: part[-1].checks - part[0].checks)
    return [one for one in part if one.checks > part[0].checks]


@contextlib.contextmanager
def _npumon(folder: Path) -> Iterator[tuple[int, str]]:
    """A daemon that has made its first check: its process id and address."""
    model, config = folder / "model.onnx", folder / "npumon.toml"
    subprocess.run([sys.executable, "-c", BUILD, str(model)], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config.write_text(CONFIG.format(port=port, model=model))
    url = f"http://127.0.0.1:{port}/metrics"
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen([sys.executable, "-m", "monitor", "run", "-c", str(config)], stdout=log) as daemon,
    ):
        try:
            deadline = time.monotonic() + FIRST_CHECK
            while not _scraped(url).get("checks_total"):
                if daemon.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"no check in {FIRST_CHECK:g} s")
                time.sleep(0.1)
            yield daemon.pid, url
        finally:
            daemon.send_signal(signal.SIGTERM)


def _moment(parent: int, url: str, state: Path) -> Moment:
    values = _scraped(url)
    (probe,) = _children(parent)
    return Moment(
        checks=values["checks_total"],
        parent_rss=1024 * status(parent, "VmRSS"),
        probe_rss=1024 * status(probe, "VmRSS"),
        parent_descriptors=len(os.listdir(f"/proc/{parent}/fd")),
        probe_descriptors=len(os.listdir(f"/proc/{probe}/fd")),
        parent_threads=len(os.listdir(f"/proc/{parent}/task")),
        probe_threads=len(os.listdir(f"/proc/{probe}/task")),
        probe=probe,
        check_seconds=values["last_check_duration_seconds"],
        parent_cpu=cpu_seconds(parent),
        state=sum(file.stat().st_size for file in state.iterdir()) / 2**20,
        work_seconds=_work(),
    )


def _work() -> float:
    """Processor time of a fixed piece of work."""
    before = time.process_time()
    for _ in range(WORK):
        pass
    return time.process_time() - before


def _children(parent: int) -> list[int]:
    listings = Path(f"/proc/{parent}/task").glob("*/children")
    return [int(pid) for listing in listings for pid in listing.read_text().split()]


def _scraped(url: str) -> dict[str, float]:
    """The metrics of the model that have no further label; none while the daemon does not answer."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            text = bytes(response.read()).decode()
    except OSError:
        return {}
    found = re.findall(r'^npumon_(\w+)\{model="m"\} (\S+)$', text, re.MULTILINE)
    return {name: float(value) for name, value in found}


if __name__ == "__main__":
    sys.exit(main())
