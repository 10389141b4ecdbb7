"""Whether an application notices npumon: the 99th percentile of its latency with and without, on one board.

Measured: an application of its own, an onnxruntime session on the CPU that is asked 200 times a second, each latency
from the moment it was due, so that waiting counts. Beside it a real ``npumon run`` on the simulator, whose probe and
parent are let run in every other window and stopped (SIGSTOP) in the others; windows go on, off, off, on, so that drift
cancels. Defaults are one check of 30 replays and 3 warm-ups in 60 s, at most 2 % of the time. That takes hours for a
percentile; here a window is 10 s long and has one check with 3 replays and 3 warm-ups: the same share of time and a
tenth more, and six times as many checks with all that they bring besides.
Baseline: the windows without npumon, in the same run; one of them against the other tells the noise.
Budget: the 99th percentile rises by at most 2 %, as a geometric mean of the ratios of neighbouring windows, with a
bootstrap interval over the pairs. It decides nothing, and counts as missed, if half of the interval or the noise is
beyond the budget: the machine is then too busy, or --rounds too small.
"""

from __future__ import annotations

import contextlib
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

from benchmarks._report import Report, Summary, parser

RATE = 200.0  # inferences a second
WINDOW = 10.0  # seconds
SETTLE = 0.5  # seconds after a change that are left out
ROUNDS = 20  # of four windows each
REPLAYS, WARMUPS = 3, 3
BUDGET = 0.02
FIRST_CHECK = 120.0  # seconds
RESAMPLES = 2000

BUILD = """\
import sys, onnx
from monitor.probe.demo_model import build
onnx.save(build(), sys.argv[1])
onnx.save(build((3, 16, 32), 24), sys.argv[2])
"""
CONFIG = """\
[monitor]
listen = "127.0.0.1:{port}"
state = "state"
interval = "{interval}s"
[runtime.options]
soc_model = "60"
[[models]]
name = "m"
path = "{model}"
replays = {replays}
session = {{ intra_op_num_threads = 1, "session.intra_op.allow_spinning" = "0" }}
[models.gate]
cv = 10.0
median = "10s"
"""


class Beat(NamedTuple):
    """One inference of the application: when it was due by the monotonic clock, and its latency, in seconds."""

    due: float
    seconds: float


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=ROUNDS, help="how often the four windows are run")
    arguments.add_argument(
        "--application", nargs=2, metavar=("MODEL", "OUT"), help="be the application (used by itself)"
    )
    options = arguments.parse_args()
    if options.application:
        return _application(*options.application)
    report = Report(
        f"an application's 99th percentile with npumon beside it; {options.rounds} x 4 windows of {WINDOW:g} s"
    )
    with tempfile.TemporaryDirectory(prefix="npumon-bench-") as folder:
        _measure(report, Path(folder), options.rounds)
    return report.finish(options.out)


def _measure(report: Report, folder: Path, rounds: int) -> None:
    own, watched, out = folder / "application.onnx", folder / "watched.onnx", folder / "beats.json"
    subprocess.run([sys.executable, "-c", BUILD, str(own), str(watched)], check=True)
    with _npumon(folder, watched) as (parent, url):
        command = [sys.executable, __file__, "--application", str(own), str(out)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as application:
            try:
                # Half of the windows are on, and the interval is two windows long: from here on each has one check, in
                # its middle, or at its beginning if it became due while npumon was stopped.
                time.sleep(1.5 * WINDOW)
                checks, busy, start = _value(url, "npumon_checks_total"), _busy(url), time.monotonic()
                windows = list(_windows(parent, rounds))
                checks, busy = _value(url, "npumon_checks_total") - checks, _busy(url) - busy
            finally:
                assert application.stdin is not None
                application.stdin.close()
    beats = [Beat(*one) for one in json.loads(out.read_text())]
    report.row("checks in the windows with npumon", f"{checks:g} in {2 * rounds}")
    share = busy * (REPLAYS + WARMUPS) / REPLAYS / (2 * rounds * WINDOW)
    report.row("share of their time that inferences took", f"{share:.2%}", "<= 2 %", share <= BUDGET)
    report.raw("windows", [(on, begin - start) for on, begin in windows])
    _conclude(report, beats, windows)


def _conclude(report: Report, beats: Sequence[Beat], windows: Sequence[tuple[bool, float]]) -> None:
    tails = [_percentile(_within(beats, begin)) for _, begin in windows]
    report.raw("p99_seconds", tails)
    ratios, noise = [], []
    for first in range(0, len(tails), 4):  # on, off, off, on
        one, two, three, four = tails[first : first + 4]
        ratios += [one / two, four / three]
        noise.append(two / three)
    for on in (True, False):
        chosen = [tail for tail, (with_, _) in zip(tails, windows, strict=True) if with_ is on]
        report.row(f"99th percentile {'with' if on else 'without'} npumon", f"{1e3 * statistics.median(chosen):.3f} ms")
    alike = _bootstrapped(noise)
    report.row("noise: without against without", f"{_percent(alike)}")
    shift = _bootstrapped(ratios)
    noisy = max(abs(alike.median), (shift.high - shift.low) / 2) > BUDGET
    budget = f"<= +{100 * BUDGET:g} %{' (too noisy to tell)' if noisy else ''}"
    report.row("the 99th percentile with npumon", _percent(shift), budget, shift.median <= BUDGET and not noisy)


def _within(beats: Sequence[Beat], begin: float) -> list[float]:
    return [one.seconds for one in beats if begin + SETTLE <= one.due < begin + WINDOW]


def _percentile(seconds: Sequence[float]) -> float:
    return statistics.quantiles(seconds, n=100, method="inclusive")[98]


def _bootstrapped(ratios: Sequence[float]) -> Summary:
    """Geometric mean less 1, and its 95 % interval from resampled pairs."""
    chance, logs = random.Random(0), [math.log(ratio) for ratio in ratios]
    means = sorted(statistics.fmean(chance.choices(logs, k=len(logs))) for _ in range(RESAMPLES))
    low, high = means[round(0.025 * RESAMPLES)], means[round(0.975 * RESAMPLES) - 1]
    return Summary(*(math.expm1(value) for value in (statistics.fmean(logs), low, high)))


def _percent(summary: Summary) -> str:
    return Summary(*(100 * value for value in summary)).shown("+.2f") + " %"


# ------------------------------------------------------------------------------------------------------ npumon


@contextlib.contextmanager
def _npumon(folder: Path, model: Path) -> Iterator[tuple[int, str]]:
    """A daemon that has made its first check: its process id and address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "npumon.toml"
    config.write_text(CONFIG.format(port=port, interval=f"{2 * WINDOW:g}", model=model, replays=REPLAYS))
    url = f"http://127.0.0.1:{port}/metrics"
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen([sys.executable, "-m", "monitor", "run", "-c", str(config)], stdout=log) as daemon,
    ):
        try:
            deadline = time.monotonic() + FIRST_CHECK
            while _value(url, "npumon_checks_total") < 2:  # the second one is the first at its place in the interval
                if time.monotonic() > deadline:
                    raise RuntimeError(f"no check in {FIRST_CHECK:g} s")
                time.sleep(0.1)
            yield daemon.pid, url
        finally:
            _signal(daemon.pid, signal.SIGCONT)
            daemon.send_signal(signal.SIGTERM)


def _windows(parent: int, rounds: int) -> Iterator[tuple[bool, float]]:
    """Run the windows; whether npumon ran in each, and when it began."""
    for on in (True, False, False, True) * rounds:
        _signal(parent, signal.SIGCONT if on else signal.SIGSTOP)
        begin = time.monotonic()
        time.sleep(WINDOW)
        yield on, begin
    _signal(parent, signal.SIGCONT)


def _signal(parent: int, number: int) -> None:
    """To npumon and its probes, which are sessions of their own."""
    listings = Path(f"/proc/{parent}/task").glob("*/children")
    for pid in [parent, *(int(pid) for listing in listings for pid in listing.read_text().split())]:
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
    due = time.monotonic()
    while not select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
        session.run(None, feeds)
        beats.append(Beat(due, time.monotonic() - due))
        due += 1 / RATE
    Path(out).write_text(json.dumps(beats))
    return 0


if __name__ == "__main__":
    sys.exit(main())
