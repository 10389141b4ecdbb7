"""Whether an application notices npumon: the 99th percentile of its latency with and without, on one board.

Measured: an application of its own, an onnxruntime session on the CPU that is asked 200 times a second, each latency
from the moment it was due, so that waiting counts. Beside it a real ``npumon run`` on the simulator with its defaults:
30 replays and 3 warm-ups a minute, of a model that takes it as long as the application's takes the application, as on
a board, where both are one model on one accelerator. A round is two minutes in slices of a second; in half of them
npumon's parent and probe are let run, in the others they are stopped (SIGSTOP): on, off, off, on, and so on, so that
what else the machine does meets both alike. The interval is set to the two minutes, so that each round has one check in
the one minute that npumon runs, amid a slice.
Baseline: the slices without npumon, in the same round. The noise: every other one of them against the rest.
Budget: the 99th percentile rises by at most 2 %, as the median of the rounds' ratios with its 95 % interval. It decides
nothing, and counts as missed, if half of the interval or the noise is beyond the budget: the machine is then too busy,
or --rounds too small.
"""

from __future__ import annotations

import bisect
import contextlib
import json
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

from benchmarks._report import Report, Summary, parser, summarize

RATE = 200.0  # inferences a second
SLICE = 1.0  # seconds
SETTLE = 0.1  # seconds after a change that are left out
ORDER = (True, False, False, True) * 30  # of the slices with npumon and without in a round
ROUND = SLICE * len(ORDER)  # seconds
ROUNDS = 30
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


class Beat(NamedTuple):
    """One inference of the application: when it was due by the monotonic clock, and its latency, in seconds."""

    due: float
    seconds: float


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=ROUNDS, help="of two minutes each")
    arguments.add_argument(
        "--application", nargs=2, metavar=("MODEL", "OUT"), help="be the application (used by itself)"
    )
    options = arguments.parse_args()
    if options.application:
        return _application(*options.application)
    report = Report(f"an application's 99th percentile with npumon beside it; {options.rounds} rounds of {ROUND:g} s")
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
                began = _value(url, "npumon_last_check_timestamp_seconds") - _value(
                    url, "npumon_last_check_duration_seconds"
                )
                # From here on checks are due in the middle of each round's first slice.
                time.sleep(began + ROUND - SLICE / 2 - time.time())
                checks, busy = _value(url, "npumon_checks_total"), _busy(url)
                slices = [_slices(parent) for _ in range(rounds)]
                checks, busy = _value(url, "npumon_checks_total") - checks, _busy(url) - busy
            finally:
                assert application.stdin is not None
                application.stdin.close()
    beats = [Beat(*one) for one in json.loads(out.read_text())]
    report.row("checks in the rounds", f"{checks:g} in {rounds}", "one each", checks == rounds)
    share = busy * (REPLAYS + WARMUPS) / REPLAYS / (rounds * ROUND / 2)
    report.row("share of npumon's time that inferences took", f"{share:.2%}", "<= 2 %", share <= BUDGET)
    report.raw("slices", [[(on, begin) for on, begin in round_] for round_ in slices])
    _conclude(report, beats, slices)


def _conclude(report: Report, beats: Sequence[Beat], rounds: Sequence[Sequence[tuple[bool, float]]]) -> None:
    with_ = [_tail(beats, [begin for on, begin in slices if on]) for slices in rounds]
    without = [_tail(beats, [begin for on, begin in slices if not on]) for slices in rounds]
    report.raw("p99_seconds_with", with_)
    report.raw("p99_seconds_without", without)
    noise = []
    for slices in rounds:
        off = [begin for on, begin in slices if not on]  # off, on, on, off: each pair's two fall into different halves
        noise.append(_tail(beats, off[::2]) / _tail(beats, off[1::2]) - 1)
    report.row("99th percentile with npumon", f"{1e3 * statistics.median(with_):.3f} ms")
    report.row("99th percentile without npumon", f"{1e3 * statistics.median(without):.3f} ms")
    alike = summarize(noise)
    report.row("noise: without against without", _percent(alike))
    shift = summarize([one / other - 1 for one, other in zip(with_, without, strict=True)])
    noisy = max(abs(alike.median), (shift.high - shift.low) / 2) > BUDGET
    budget = f"<= +{100 * BUDGET:g} %{' (too noisy to tell)' if noisy else ''}"
    report.row("the 99th percentile with npumon", _percent(shift), budget, shift.median <= BUDGET and not noisy)


def _tail(beats: Sequence[Beat], begins: Sequence[float]) -> float:
    """The 99th percentile of the beats in the slices that begin then, all together."""
    spans = [(_index(beats, begin + SETTLE), _index(beats, begin + SLICE)) for begin in begins]
    return _percentile([one.seconds for first, last in spans for one in beats[first:last]])


def _index(beats: Sequence[Beat], due: float) -> int:
    return bisect.bisect_left(beats, due, key=lambda one: one.due)


def _percentile(seconds: Sequence[float]) -> float:
    return statistics.quantiles(seconds, n=100, method="inclusive")[98]


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
    config.write_text(CONFIG.format(port=port, interval=ROUND, model=model))
    url = f"http://127.0.0.1:{port}/metrics"
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen([sys.executable, "-m", "monitor", "run", "-c", str(config)], stdout=log) as daemon,
    ):
        try:
            deadline = time.monotonic() + FIRST_CHECK
            while _value(url, "npumon_checks_total") < 1:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"no check in {FIRST_CHECK:g} s")
                time.sleep(0.1)
            yield daemon.pid, url
        finally:
            _signal(daemon.pid, signal.SIGCONT)
            daemon.send_signal(signal.SIGTERM)


def _slices(parent: int) -> list[tuple[bool, float]]:
    """Run one round; whether npumon ran in each slice, and when it began."""
    slices = []
    begin = time.monotonic()
    for number, on in enumerate(ORDER, 1):
        _signal(parent, signal.SIGCONT if on else signal.SIGSTOP)
        slices.append((on, time.monotonic()))
        time.sleep(max(0.0, begin + number * SLICE - time.monotonic()))
    _signal(parent, signal.SIGCONT)
    return slices


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
