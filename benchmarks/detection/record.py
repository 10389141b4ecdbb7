"""Records real latencies as fixtures: the CPU and the simulator through the real probe, quiet and beside a burner.

``python -m benchmarks.detection.record [NAME]...`` renews ``recorded/``; it takes some four minutes and wants the
machine to itself. Each file holds ``replays``, of shape (checks, replays), in units of 100 ns, and ``about``, a JSON
document. The checks follow each other closely, so that drift over hours is not in them; noise, stalls and co-runners
are.
The burner is a loop in Python, pinned to one core or free; a periodic one runs in 2 of every 20 checks.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks._report import environment
from monitor.service.handle import ProbeHandle
from monitor.service.life import AUDIT_BUDGET, AUDIT_RUNS
from monitor.service.rounds import WARMUPS
from monitor.wire import Audit, Open, Replay, Spec

RECORDED: Final = Path(__file__).parent / "recorded"
UNIT: Final = 1e-7  # seconds
CHECKS: Final = 300
REPLAYS: Final = 60
PERIOD, BUSY = 20, 2  # checks
TIMEOUT: Final = 120.0
PAUSE: Final = 0.02  # seconds between checks
SESSION: Final[dict[str, str | int | float | bool]] = {
    "intra_op_num_threads": 1,
    "session.intra_op.allow_spinning": "0",
}
BUILD: Final = """\
import sys, onnx
from monitor.probe.demo_model import build
onnx.save(build((3, 8), 8), sys.argv[1])
onnx.save(build((3, 64, 64), 64), sys.argv[2])
"""


class Recording(NamedTuple):
    """What to record; ``burner`` is the core it is pinned to, -1 for free, ``None`` for no burner."""

    name: str
    soc: str
    burner: int | None = None
    periodic: bool = False


RECORDINGS: Final = (
    Recording("cpu_quiet", "9999"),
    Recording("cpu_loaded", "9999", burner=-1),
    Recording("cpu_co_runner", "9999", burner=0, periodic=True),
    Recording("simulator_quiet", "60"),
    Recording("simulator_co_runner", "60", burner=0, periodic=True),
)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("name", nargs="*", help="only these recordings")
    names = arguments.parse_args().name
    RECORDED.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="npumon-record-") as folder:
        small, larger = Path(folder) / "small.onnx", Path(folder) / "larger.onnx"
        subprocess.run([sys.executable, "-c", BUILD, str(small), str(larger)], check=True)
        for recording in RECORDINGS:
            if names and recording.name not in names:
                continue
            model = small if recording.soc == "60" else larger
            start, load = time.monotonic(), os.getloadavg()[0]
            seconds = _record(recording, model)
            about = {**recording._asdict(), **environment(), "load_before": load}
            units = np.rint(seconds / UNIT).astype(np.uint32)
            np.savez_compressed(RECORDED / f"{recording.name}.npz", replays=units, about=np.array(json.dumps(about)))
            took, median = time.monotonic() - start, 1e3 * float(np.median(seconds))
            print(f"{recording.name}: median {median:.3f} ms, {took:.0f} s", file=sys.stderr)
    return 0


def load() -> dict[str, list[list[float]]]:
    """Seconds of each replay of each check, by recording."""
    found = {}
    for path in sorted(RECORDED.glob("*.npz")):
        with np.load(path) as stored:
            found[path.stem] = (stored["replays"] * UNIT).tolist()
    return found


def _record(recording: Recording, model: Path) -> npt.NDArray[np.float64]:
    spec = Spec(name="m", path=str(model), provider="qnn", options={"soc_model": recording.soc}, session=SESSION)
    rows = []
    handle = ProbeHandle()
    try:
        handle.request(Open(spec, 0), TIMEOUT)
        handle.request(Audit(AUDIT_RUNS, AUDIT_BUDGET), TIMEOUT)
        with _burner(recording) as burner:
            for number in range(CHECKS):
                if burner is not None and recording.periodic:
                    burner.send_signal(signal.SIGCONT if number % PERIOD < BUSY else signal.SIGSTOP)
                time.sleep(PAUSE)
                rows.append(handle.request(Replay(REPLAYS, WARMUPS, TIMEOUT), TIMEOUT).seconds)
    finally:
        handle.close()
    return np.array(rows)


@contextmanager
def _burner(recording: Recording) -> Iterator[subprocess.Popen[bytes] | None]:
    if recording.burner is None:
        yield None
        return
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as burner:
        try:
            if recording.burner >= 0:
                os.sched_setaffinity(burner.pid, {recording.burner})
            yield burner
        finally:
            burner.kill()


if __name__ == "__main__":
    sys.exit(main())
