"""Whether 50,000 checks leave anything in npumon: five weeks of checks at a minute's interval.

Measured: a real ``npumon run`` on the simulator with a very small model, checked without a pause (interval 1 ms, two
replays, ``max_duty = 1``). Each second: checks so far, resident memory, descriptors and threads of the parent and the
probe, and the size of the state. As many checks are made before those that count: caches and tables fill up to their
limits then (what was spent in the last ten minutes is the largest), and the allocator's arenas find their size. An
alarm about latency, which a busy machine raises, has the probe renewed once an hour; the probe's figures are those of
the one that lived longest. Then a second daemon is started, and both check side by side for five minutes.
Baseline: for what must not grow, the run's own beginning; a slope is Theil and Sen's over the medians of 40 stretches
of the run, its 95 % interval from Kendall's S; stretches, because neighbouring seconds repeat each other. For the time
that a check takes, the second daemon in the same 5 s, from its 1000th check on: a shared machine is faster at one time
than at another, which is no drift of npumon's.
Budgets: descriptors and threads become no more; memory grows by at most 10 KiB in 1000 checks, which is 5 MiB in
a year; a check of the old daemon takes at most 10 % longer than one of the young, and as little more of its processor
time; the state stays below 16 MiB. A budget is kept to if all of the interval is.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
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

from benchmarks._report import Report, Summary, children, cpu_seconds, end, end_on_signals, parser, status, summarize

CHECKS = 50_000
SETTLING = 50_000
STRETCHES = 40
GROWTH = 10.0  # KiB in 1000 checks
DRIFT = 0.10
STATE = 16.0  # MiB
YOUNG = 1000  # checks of the second daemon before it is compared
PAIRS = 60
PAIR = 5.0  # seconds
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
    """The daemon at one moment: memory in KiB, the state in MiB."""

    checks: float
    parent_rss: float
    probe_rss: float
    parent_descriptors: int
    probe_descriptors: int
    parent_threads: int
    probe_threads: int
    probe: int
    state: float


class Pace(NamedTuple):
    """What a check took a daemon in a stretch of time: seconds by the clock, and of the service's processor time."""

    duration: float
    processor: float


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--checks", type=int, default=CHECKS, help="how many checks count")
    arguments.add_argument("--settling", type=int, default=SETTLING, help="how many checks are made before these")
    options = arguments.parse_args()
    end_on_signals()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="npumon-bench-") as folder, running(Path(folder) / "old") as old:
        moments = endure(old, options.settling + options.checks)
        with running(Path(folder) / "young") as young:
            paces = compare(old, young)
    report = Report(f"{moments[-1].checks:,.0f} checks in {(time.monotonic() - begin) / 60:.1f} min")
    report.raw("moments", [moment._asdict() for moment in moments])
    report.raw("paces of the old and the young daemon", paces)
    settled = [one for one in moments if one.checks >= options.settling]
    grown = (settled[0].parent_rss - moments[0].parent_rss) / 1024
    report.row("growth of the parent while it settled", f"{grown:.1f} MiB")
    report.row("probes that were needed", str(len({one.probe for one in settled})))
    conclude(report, settled, paces)
    return report.finish(options.out)


def conclude(report: Report, moments: Sequence[Moment], paces: Sequence[tuple[Pace, Pace]]) -> None:
    """The rows of the table."""
    alone = longest(moments)
    checks = alone[-1].checks - alone[0].checks
    half = (moments[-1].checks - moments[0].checks) / 2
    report.row("checks of the probe that lived longest", f"{checks:,.0f}", f">= {half:,.0f}", checks >= half)
    for who, ones in (("parent", moments), ("probe", alone)):
        slope = trend([(one.checks / 1000, float(getattr(one, f"{who}_rss"))) for one in ones])
        level = statistics.median(getattr(one, f"{who}_rss") for one in ones) / 1024
        report.row(f"RSS of the {who}, median", f"{level:.1f} MiB")
        report.row("  growth in 1000 checks", f"{slope.shown('+.2f')} KiB", f"<= {GROWTH:g} KiB", slope.high <= GROWTH)
    for what in ("descriptors", "threads"):
        for who, ones in (("parent", moments), ("probe", alone)):
            first, last = ends([getattr(one, f"{who}_{what}") for one in ones])
            report.row(f"{what} of the {who}, at both ends", f"{first}, {last}", "no more", last <= first)
    report.row("stretches that were compared", f"{len(paces)} of {PAIRS}", f">= {PAIRS // 2}", len(paces) >= PAIRS // 2)
    for what, taken in (("a check takes", "duration"), ("its processor time", "processor")):
        times = [(getattr(old, taken), getattr(young, taken)) for old, young in paces]
        report.row(f"{what}, median of the old daemon", f"{1e3 * statistics.median(old for old, _ in times):.2f} ms")
        drift = summarize([100 * (old / young - 1) for old, young in times])
        within = drift.high <= 100 * DRIFT
        report.row("  more than a young one's", f"{drift.shown('+.1f')} %", f"<= +{100 * DRIFT:g} %", within)
    largest = max(one.state for one in moments)
    report.row("the state at most", f"{largest:.1f} MiB", f"<= {STATE:g} MiB", largest <= STATE)


def trend(points: Sequence[tuple[float, float]]) -> Summary:
    """Theil and Sen's slope with its 95 % interval (Sen, JASA 63, 1968), over the medians of equal stretches."""
    count = min(STRETCHES, len(points))
    cuts = [round(index * len(points) / count) for index in range(count + 1)]
    parts = [points[begin:end] for begin, end in itertools.pairwise(cuts)]
    places = [(statistics.median(x for x, _ in part), statistics.median(y for _, y in part)) for part in parts]
    slopes = sorted((b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.combinations(places, 2) if b[0] > a[0])
    reach = 1.96 * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    low = max(0, math.floor((len(slopes) - reach) / 2))
    return Summary(statistics.median(slopes), slopes[low], slopes[-1 - low])


def ends(counts: Sequence[int]) -> tuple[int, int]:
    """The smallest of the first and of the last third: a scrape or a write holds one more for a moment."""
    third = max(1, len(counts) // 3)
    return min(counts[:third]), min(counts[-third:])


# ------------------------------------------------------------------------------------------------------ npumon


class Daemon(NamedTuple):
    """A daemon that runs: its process, the address of its metrics, and its state."""

    process: subprocess.Popen[bytes]
    url: str
    state: Path


def endure(daemon: Daemon, checks: int) -> list[Moment]:
    """Wait for so many checks; what the daemon was like each second. Raises ``RuntimeError`` if it checks no more."""
    moments: list[Moment] = []
    most, moved = 0.0, time.monotonic()
    while not moments or moments[-1].checks < checks:
        time.sleep(1 if checks > 1000 else 0.1)
        _alive(daemon)
        if moments and moments[-1].checks > most:
            most, moved = moments[-1].checks, time.monotonic()
        elif time.monotonic() > moved + FIRST_CHECK:
            raise RuntimeError(f"no check in {FIRST_CHECK:g} s")
        # While a probe is renewed, and a study or a comparison is made, there is none or more than one.
        with contextlib.suppress(OSError, LookupError, ValueError):
            moments.append(_moment(daemon))
    return moments


def compare(old: Daemon, young: Daemon) -> list[tuple[Pace, Pace]]:
    """The paces of both in the same stretches of time, once the young one has settled.

    A stretch in which one of them was not asked or made no check, as while a probe is renewed, is left out.
    """
    endure(young, YOUNG)
    paces = []
    for _ in range(PAIRS):
        before = _spent(old), _spent(young)
        time.sleep(PAIR)
        after = _spent(old), _spent(young)
        pair = _pace(before[0], after[0]), _pace(before[1], after[1])
        if pair[0] and pair[1]:
            paces.append((pair[0], pair[1]))
    return paces


def _alive(daemon: Daemon) -> None:
    if daemon.process.poll() is not None:
        raise RuntimeError(f"the daemon has ended with {daemon.process.returncode}")


def _spent(daemon: Daemon) -> tuple[float, float, float]:
    """Checks, seconds by the clock, and seconds of processor time so far."""
    _alive(daemon)
    return _scraped(daemon.url).get("checks_total", math.nan), time.monotonic(), cpu_seconds(daemon.process.pid)


def _pace(before: tuple[float, float, float], after: tuple[float, float, float]) -> Pace | None:
    checks = after[0] - before[0]
    return Pace((after[1] - before[1]) / checks, (after[2] - before[2]) / checks) if checks > 0 else None


def longest(moments: Sequence[Moment]) -> list[Moment]:
    """The moments of the probe that made most checks, from its first check on."""
    parts = [list(part) for _, part in itertools.groupby(moments, lambda one: one.probe)]
    part = max(parts, key=lambda part: part[-1].checks - part[0].checks)
    return [one for one in part if one.checks > part[0].checks]


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Daemon]:
    """A daemon in a new ``folder`` that has made its first check."""
    folder.mkdir()
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
            yield Daemon(daemon, url, folder / "state")
        finally:
            end(daemon)


def _moment(daemon: Daemon) -> Moment:
    parent = daemon.process.pid
    (probe,) = children(parent)
    return Moment(
        checks=_scraped(daemon.url)["checks_total"],
        parent_rss=1024 * status(parent, "VmRSS"),
        probe_rss=1024 * status(probe, "VmRSS"),
        parent_descriptors=len(os.listdir(f"/proc/{parent}/fd")),
        probe_descriptors=len(os.listdir(f"/proc/{probe}/fd")),
        parent_threads=len(os.listdir(f"/proc/{parent}/task")),
        probe_threads=len(os.listdir(f"/proc/{probe}/task")),
        probe=probe,
        state=sum(file.stat().st_size for file in daemon.state.iterdir()) / 2**20,
    )


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
