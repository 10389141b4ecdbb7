"""Whether a large profile is read as a stream: how fast, and in how much memory.

Measured: ``read_profile`` on a profile of at least 200 MB that the runtime itself writes here, over as many inferences
as an audit profiles, of a model whose Loop runs thousands of times: nothing else makes profiles of this size in so few
inferences. Each reading is a process of its own, as in a probe, with the file in the page cache.
Baseline: ``json.load`` of the same file in another process, before and after.
Budgets: at least 200 MB/s; at most 20 MiB of growth, from the imports to the highest mark. The speed is the median over
the CPU time that the reader took, because it has one thread and waits for nothing: on a machine of its own that is the
wall time, which is shown as well.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks._report import Report, parser, status, summarize
from monitor.service.life import AUDIT_RUNS

SIZE = 200  # MB
ROUNDS = 5
SPEED_BUDGET = 200.0  # MB/s
GROWTH_BUDGET = 20.0  # MiB
BODY = 40  # nodes of the Loop's body
EVENT = 850  # bytes of an event, at least


class Reading(NamedTuple):
    """One process that read the file: seconds of wall and CPU time, and MiB that it grew."""

    wall: float
    cpu: float
    growth: float


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=ROUNDS)
    arguments.add_argument("--do", nargs=2, metavar=("WHAT", "PATH"), help="be a child (used by the benchmark itself)")
    options = arguments.parse_args()
    if options.do:
        what, path = options.do
        {"write": _write, "read_profile": _read, "json.load": _load}[what](Path(path))
        return 0
    with tempfile.TemporaryDirectory(prefix="npumon-bench-") as folder:
        path = Path(folder) / "profile.json"
        _child("write", path)
        size = path.stat().st_size / 1e6
        baseline = [Reading(*json.loads(_child("json.load", path)))]
        readings = [Reading(*json.loads(_child("read_profile", path))) for _ in range(options.rounds)]
        baseline.append(Reading(*json.loads(_child("json.load", path))))
    report = Report(f"a profile of {size:.0f} MB, {options.rounds} rounds; median [95 % interval]")
    report.raw("megabytes", size)
    report.raw("read_profile", readings)
    report.raw("json.load", baseline)
    speed = summarize([size / reading.cpu for reading in readings])
    slow = statistics.fmean(size / reading.cpu for reading in baseline)
    growth = max(reading.growth for reading in readings)
    report.row("json.load, MB/s", f"{slow:.1f}")
    report.row("json.load, growth, MiB", f"{max(reading.growth for reading in baseline):.0f}")
    report.row("read_profile, MB/s", speed.shown(".0f"), f">= {SPEED_BUDGET:g}", speed.median >= SPEED_BUDGET)
    report.row("read_profile, MB/s of wall time", summarize([size / r.wall for r in readings]).shown(".0f"))
    report.row("read_profile, times json.load", f"{speed.median / slow:.1f}")
    report.row("read_profile, growth, MiB, most", f"{growth:.1f}", f"<= {GROWTH_BUDGET:g}", growth <= GROWTH_BUDGET)
    return report.finish(options.out)


def _child(what: str, path: Path) -> str:
    command = [sys.executable, __file__, "--do", what, str(path)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _write(path: Path) -> None:
    """Have the runtime profile the Loop; its body runs as often as the size needs."""
    import numpy as np
    import onnxruntime as ort
    from onnx import TensorProto, helper

    trips = SIZE * 10**6 // (EVENT * AUDIT_RUNS * BODY) + 1
    scalar, row = helper.make_tensor_value_info, [1, 64]
    ops = ["Sigmoid", "Tanh", "Relu", "Abs"]
    nodes = [helper.make_node(ops[i % 4], [f"v{i}"], [f"v{i + 1}"], f"/decoder/step/{i}") for i in range(BODY - 1)]
    nodes.append(helper.make_node("Identity", ["go"], ["on"], "/decoder/step/go"))
    before = [scalar("i", TensorProto.INT64, []), scalar("go", TensorProto.BOOL, []), scalar("v0", 1, row)]
    after = [scalar("on", TensorProto.BOOL, []), scalar(f"v{BODY - 1}", 1, row)]
    body = helper.make_graph(nodes, "body", before, after)
    loop = helper.make_node("Loop", ["trips", "", "x"], ["y"], "/decoder", body=body)
    constants = [helper.make_tensor("trips", TensorProto.INT64, [], [trips])]
    graph = helper.make_graph([loop], "g", [scalar("x", 1, row)], [scalar("y", 1, row)], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    so = ort.SessionOptions()
    so.enable_profiling = True
    so.profile_file_prefix = str(path.with_suffix(""))
    session = ort.InferenceSession(model.SerializeToString(), so, providers=["CPUExecutionProvider"])
    for _ in range(AUDIT_RUNS):
        session.run(None, {"x": np.ones(row, np.float32)})
    Path(session.end_profiling()).rename(path)
    if path.stat().st_size < SIZE * 10**6:
        raise RuntimeError(f"the profile has only {path.stat().st_size} bytes: EVENT is too large")


def _read(path: Path) -> None:
    from monitor.probe.trace import read_profile

    before, wall, cpu = status(os.getpid(), "VmRSS"), time.perf_counter(), time.process_time()
    profile = read_profile(path, AUDIT_RUNS, "QNNExecutionProvider")
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if profile.partial or len(profile.runs) != AUDIT_RUNS:
        raise RuntimeError(f"not read: {profile.partial}")
    print(json.dumps([wall, cpu, status(os.getpid(), "VmHWM") - before]))


def _load(path: Path) -> None:
    before, wall, cpu = status(os.getpid(), "VmRSS"), time.perf_counter(), time.process_time()
    with path.open(encoding="utf-8") as file:
        json.load(file)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps([wall, cpu, status(os.getpid(), "VmHWM") - before]))


if __name__ == "__main__":
    sys.exit(main())
