"""Whether an application notices npumon: the 99th percentile of its latency with and without, on one board.

Measured: an application of its own, an onnxruntime session on the CPU that is asked 400 times a second. A latency goes
from the moment the inference was due, so that waiting counts, and is made of what the kernel has accounted: the time
that the application's thread computed and the time that it was ready and waited for a core. That leaves out what the
host of a virtual machine took away while it computed, a few percent of the time on the machine that this was written
on, which would be the 99th percentile. It leaves out as well what the thread slept in an inference, for a page that
had gone to the disk, say; latencies by the clock, which have everything, are shown beside.
Beside it a real ``npumon run`` on the simulator with the default number of replays and interval: 30 replays and 3
warm-ups a minute, of a model that takes it as long as the application's takes the application. What the two share here
are cores, caches and memory; on a board it is the accelerator as well. In one of each two tenths of a second, drawn by
lot, npumon's parent and probe are let run, in the other they are stopped (SIGSTOP), so that what else the machine does
meets both alike. The interval is set to two minutes, so that there is one check in a minute that npumon runs.
Baseline: the tenths of a second without npumon, in the same 10 s. The noise: every other one of them against the rest.
The 99th percentiles are those of windows of 10 s, with npumon and without. Of the windows' ratios the Hodges-Lehmann
estimate is taken with Wilcoxon's 95 % interval (Hollander, Wolfe and Chicken, Nonparametric Statistical Methods, 3.2,
3.4), of those with a check and of those without one, and both are put together as they occur, one to eleven; a longer
window would only be more lenient with a check. What happens in few windows does not show in that, as an audit every six
hours does not. A round in which the probe was renewed is left out.
Budget: the 99th percentile rises by at most 2 %, with all of its interval. It decides nothing, and counts as missed, if
half of the interval or the noise is beyond the budget: the machine is then too busy, or --rounds too small.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import json
import math
import os
import random
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

from benchmarks._report import Report, Summary, children, end, end_on_signals, parser

RATE = 400.0  # inferences a second
SLICE = 0.1  # seconds
PAIRS = 50  # of slices, one with npumon and one without, in a window
WINDOW = SLICE * 2 * PAIRS  # seconds
WINDOWS = 12  # of a round, which has one check, in its first window
ROUND = WINDOW * WINDOWS  # seconds
ROUNDS = 30
FEWEST = 6  # rounds; fewer values have no 95 % interval
REPLAYS, WARMUPS = 30, 3  # the defaults
BUDGET = 0.02
FIRST_CHECK = 120.0  # seconds

BUILD = """\
import sys, onnx
from monitor.probe.demo_model import build
onnx.save(build(), sys.argv[1])
onnx.save(build((3, 8, 8), 8), sys.argv[2])
"""
CONFIG = """\
[monitor]
listen = "127.0.0.1:{port}"
state = "state"
interval = "{interval:g}s"
[runtime.options]
soc_model = "60"
[[models]]
name = "m"
path = "{model}"
session = {{ intra_op_num_threads = 1, "session.intra_op.allow_spinning" = "0" }}
[models.gate]
cv = 10.0
median = "10s"
"""


class Slice(NamedTuple):
    """A stretch of time with npumon or without, from ``begin`` to ``end`` by the monotonic clock, in seconds."""

    on: bool
    begin: float
    end: float


class Beat(NamedTuple):
    """One inference of the application: when it was due by the monotonic clock, and its latency, in seconds.

    ``elapsed`` is the latency by the clock, with what the host took away.
    """

    due: float
    seconds: float
    elapsed: float


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=ROUNDS, help="of two minutes each")
    arguments.add_argument(
        "--application", nargs=2, metavar=("MODEL", "OUT"), help="be the application (used by itself)"
    )
    options = arguments.parse_args()
    if options.application:
        return _application(*options.application)
    if options.rounds < FEWEST:
        arguments.error(f"--rounds: {FEWEST} at least, or there is no interval")
    end_on_signals()
    report = Report(f"an application's 99th percentile with npumon beside it; {options.rounds} rounds of {ROUND:g} s")
    with tempfile.TemporaryDirectory(prefix="npumon-bench-") as folder:
        _measure(report, Path(folder), options.rounds)
    return report.finish(options.out)


def _measure(report: Report, folder: Path, rounds: int) -> None:
    own, watched, out = folder / "application.onnx", folder / "watched.onnx", folder / "beats.json"
    subprocess.run([sys.executable, "-c", BUILD, str(own), str(watched)], check=True)
    with _npumon(folder, watched) as (parent, url):
        command = [sys.executable, __file__, "--application", str(own), str(out)]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as application:
            try:
                began = _value(url, "npumon_last_check_timestamp_seconds") - _value(
                    url, "npumon_last_check_duration_seconds"
                )
                # From here on checks are due in the middle of each round's first window.
                time.sleep(began + ROUND - WINDOW / 2 - time.time())
                checks, busy = _value(url, "npumon_checks_total"), _busy(url)
                whole = [_round(parent, application) for _ in range(rounds)]
                checks, busy = _value(url, "npumon_checks_total") - checks, _busy(url) - busy
            finally:
                assert application.stdin is not None
                application.stdin.close()
    windows = [window for one in whole if one is not None for window in one]
    report.row("rounds left out", str(whole.count(None)), f"<= {rounds // 10}", whole.count(None) <= rounds // 10)
    beats = [Beat(*one) for one in json.loads(out.read_text())]
    report.row("checks in the rounds", f"{checks:g} in {rounds}", "one each", checks == rounds)
    share = busy * (REPLAYS + WARMUPS) / REPLAYS / (rounds * ROUND / 2)
    report.row("share of npumon's time that inferences took", f"{share:.2%}", "<= 2 %", share <= BUDGET)
    conclude(report, beats, windows)


def conclude(report: Report, beats: Sequence[Beat], windows: Sequence[Sequence[Slice]]) -> None:
    on = [[one for one in slices if one.on] for slices in windows]
    off = [[one for one in slices if not one.on] for slices in windows]
    _compare(report, "by the clock", beats, [one.elapsed for one in beats], on, off)
    latencies = [one.seconds for one in beats]
    shift = _compare(report, "without the host's share", beats, latencies, on, off)
    halves = [_tails(beats, latencies, [slices[half::2] for slices in off]) for half in (0, 1)]
    report.raw("slices with npumon begin at, in seconds", [[one.begin for one in slices] for slices in on])
    report.raw("99th percentiles of the two halves without npumon, in seconds", halves)
    noise = estimate(_logarithms(*halves))
    report.row("noise: without against without", _percent(noise))
    bound = math.log1p(BUDGET)
    noisy = max(abs(noise.median), (shift.high - shift.low) / 2) > bound
    budget = f"<= +{100 * BUDGET:g} %{' (too noisy to tell)' if noisy else ''}"
    report.row("the 99th percentile with npumon", _percent(shift), budget, shift.high <= bound and not noisy)


def _compare(
    report: Report,
    what: str,
    beats: Sequence[Beat],
    latencies: Sequence[float],
    on: Sequence[Sequence[Slice]],
    off: Sequence[Sequence[Slice]],
) -> Summary:
    """By how much the logarithm of the 99th percentile of such latencies is higher with npumon."""
    with_, without = _tails(beats, latencies, on), _tails(beats, latencies, off)
    report.raw(f"99th percentiles {what}, with npumon and without, in seconds", [with_, without])
    medians = f"{1e3 * statistics.median(with_):.3f}, {1e3 * statistics.median(without):.3f} ms"
    report.row(f"99th percentile {what}, with npumon and without", medians)
    ratios = _logarithms(with_, without)
    checked = estimate(ratios[::WINDOWS])
    idle = estimate([one for number, one in enumerate(ratios) if number % WINDOWS])
    shift = _together(checked, 1 / WINDOWS, idle)
    for where, more in (("in 10 s with a check", checked), ("in 10 s without one", idle), ("on the whole", shift)):
        report.row(f"  more with npumon, {where}", _percent(more))
    return shift


def _tails(beats: Sequence[Beat], latencies: Sequence[float], windows: Sequence[Sequence[Slice]]) -> list[float]:
    """Of each window the 99th percentile of the latencies of what was due in its slices."""
    spans = [[slice(_index(beats, one.begin), _index(beats, one.end)) for one in slices] for slices in windows]
    return [_percentile([seconds for span in window for seconds in latencies[span]]) for window in spans]


def _percentile(seconds: Sequence[float]) -> float:
    return statistics.quantiles(seconds, n=100, method="inclusive")[98]


def _logarithms(ones: Sequence[float], others: Sequence[float]) -> list[float]:
    return [math.log(one / other) for one, other in zip(ones, others, strict=True)]


def _index(beats: Sequence[Beat], due: float) -> int:
    return bisect.bisect_left(beats, due, key=lambda one: one.due)


def estimate(ratios: Sequence[float]) -> Summary:
    """The median of all pairs' means, each value being a pair with itself too, and the interval from signed ranks.

    At least :data:`FEWEST` values, or the interval is narrower than one of 95 %.
    """
    count = len(ratios)
    means = sorted((one + other) / 2 for one, other in itertools.combinations_with_replacement(ratios, 2))
    reach = 1.96 * math.sqrt(count * (count + 1) * (2 * count + 1) / 24)
    low = max(0, math.floor(len(means) / 2 - 0.5 - reach))
    return Summary(statistics.median(means), means[low], means[-1 - low])


def _together(one: Summary, share: float, other: Summary) -> Summary:
    """The mean of two independent estimates, ``share`` of the first (Zou and Donner, Stat. Med. 27, 2008)."""
    median = share * one.median + (1 - share) * other.median
    low = math.hypot(share * (one.median - one.low), (1 - share) * (other.median - other.low))
    high = math.hypot(share * (one.high - one.median), (1 - share) * (other.high - other.median))
    return Summary(median, median - low, median + high)


def _percent(logarithms: Summary) -> str:
    return Summary(*(100 * math.expm1(value) for value in logarithms)).shown("+.2f") + " %"


# ------------------------------------------------------------------------------------------------------ npumon


@contextlib.contextmanager
def _npumon(folder: Path, model: Path) -> Iterator[tuple[int, str]]:
    """A daemon that has made its first check: its process id and address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "npumon.toml"
    config.write_text(CONFIG.format(port=port, interval=ROUND, model=model))
    url = f"http://127.0.0.1:{port}/metrics"
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen([sys.executable, "-m", "monitor", "run", "-c", str(config)], stdout=log) as daemon,
    ):
        try:
            deadline = time.monotonic() + FIRST_CHECK
            while _value(url, "npumon_checks_total") < 1:
                if daemon.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"no check in {FIRST_CHECK:g} s")
                time.sleep(0.1)
            yield daemon.pid, url
        finally:
            _signal(_processes(daemon.pid), signal.SIGCONT)
            end(daemon)


def _round(parent: int, application: subprocess.Popen[bytes]) -> list[list[Slice]] | None:
    """Run one round: its windows. None if there were other processes at its end, since these were not stopped."""
    if application.poll() is not None:
        raise RuntimeError("the application has ended")
    processes = _processes(parent)  # once, since looking for them takes longer than an inference
    try:
        windows, begin = [], time.monotonic()
        for _ in range(WINDOWS):
            slices = []
            for on in (one for _ in range(PAIRS) for one in random.choice(((True, False), (False, True)))):
                _signal(processes, signal.SIGCONT if on else signal.SIGSTOP)
                slices.append(Slice(on, begin, begin + SLICE))
                begin += SLICE
                time.sleep(max(0.0, begin - time.monotonic()))
            windows.append(slices)
    finally:
        _signal(processes, signal.SIGCONT)
    return windows if _processes(parent) == processes else None


def _processes(parent: int) -> list[int]:
    """The daemon and its probes, which are sessions of their own."""
    return [parent, *children(parent)]


def _signal(processes: Sequence[int], number: int) -> None:
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _value(url: str, metric: str) -> float:
    """The metric's value, 0 while the daemon does not answer."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            text = bytes(response.read()).decode()
    except OSError:
        return 0.0
    found = re.search(rf"^{metric}\{{.*\}} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def _busy(url: str) -> float:
    """Seconds of all replays so far, without warm-ups."""
    return _value(url, "npumon_latency_seconds_sum")


# ------------------------------------------------------------------------------------------------- the application


def _application(model: str, out: str) -> int:
    """Run a session on the CPU at a steady rate until stdin is closed; then write all beats."""
    import gc
    import select

    import numpy as np
    import onnxruntime as ort

    so = ort.SessionOptions()
    so.intra_op_num_threads = 1
    so.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(model, so, providers=["CPUExecutionProvider"])
    (wanted,) = session.get_inputs()
    feeds = {wanted.name: np.random.default_rng(0).random(wanted.shape, np.float32)}
    beats: list[Beat] = []
    gc.disable()  # of so many beats it would take longer than an inference
    accounts = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
    due = finished = time.monotonic()
    accounted = _accounted(accounts)
    while not select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
        session.run(None, feeds)
        now = _accounted(accounts)
        finished = max(due, finished) + now - accounted  # one that is due earlier waits for the one before
        accounted = now
        beats.append(Beat(due, finished - due, time.monotonic() - due))
        due += 1 / RATE
    Path(out).write_text(json.dumps(beats))
    return 0


def _accounted(schedstat: int) -> float:
    """Seconds that this thread has computed or waited for a core (the kernel's Documentation/scheduler/sched-stats)."""
    _, waited, turns = os.pread(schedstat, 100, 0).split()
    if turns == b"0":
        raise RuntimeError("the kernel does not account for waiting; it takes one with CONFIG_SCHED_INFO")
    return time.thread_time() + int(waited) / 1e9


if __name__ == "__main__":
    sys.exit(main())
