"""What it costs to know where the work of a large model ran, beside creating its session and running it.

Measured: the wall time of a whole audit of a model with 2,000 nodes, without the comparison of outputs: process start,
named copy, session with recorded placement and a verbose log, profiled runs, the profile's reading, the join, the
conclusion. With a study from the cache, as in every check but a model's first; that first one, whose study takes a
process of its own, is shown beside it.
Baseline: a process of its own that registers the same execution provider, creates the session with the same options and
profiles as many runs, and nothing else; alternated with the audits, order reversed every other round.
Budget: what an audit takes more than the bare process is at most 10 % of the latter's session creation and profiled
runs (its start does not count), and 1 s; as the median of the paired differences, each against its own allowance.
Models: one of which the simulator refuses an op now and then, on it; and the same on the CPU alone (a backend that does
not exist), where there is the least to hide behind.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks._report import Report, parser, summarize
from monitor.config import Model
from monitor.service.check import Checker
from monitor.service.identity import spec_of
from monitor.service.life import AUDIT_RUNS
from monitor.service.studies import Memory

NODES = 2000
ROUNDS = 5
TIMEOUT = 300.0
SHARE_BUDGET = 0.10
FIXED_BUDGET = 1.0  # seconds
CASES = {"simulator": {"soc_model": "60"}, "cpu": {"backend_path": "/no/such/backend.so"}}
BLOCK = ("Conv", "Relu", "Conv", "Sigmoid", "Mul", "MatMul", "Add", "Tanh", "Conv", "Mul")
REFUSED_EVERY = 10  # blocks: the op Sinh instead of Tanh, which the simulator leaves to the CPU


class Round(NamedTuple):
    """Seconds of one round: the bare process, its creation and runs, the first audit, and the next."""

    bare: float
    work: float
    first: float
    cached: float


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=ROUNDS)
    arguments.add_argument("--case", choices=CASES, action="append", help="only this one; may be repeated")
    arguments.add_argument("--do", nargs=2, metavar=("WHAT", "SPEC"), help="be a child (used by the benchmark itself)")
    options = arguments.parse_args()
    if options.do:
        what, argument = options.do
        return _build(Path(argument)) if what == "build" else _bare(argument)
    report = Report(f"an audit of {NODES} nodes against session and runs, {options.rounds} rounds; median [95 %], s")
    with tempfile.TemporaryDirectory(prefix="npumon-bench-") as folder:
        path = Path(folder) / "model.onnx"
        _child("build", str(path))
        for name in options.case or CASES:
            model = Model(name=name, path=path, options=CASES[name], timeout=TIMEOUT, compare_outputs=False)
            rounds = [_round(model, reverse=bool(number % 2)) for number in range(options.rounds + 1)][1:]
            _conclude(report, name, rounds)
    return report.finish(options.out)


def _conclude(report: Report, name: str, rounds: list[Round]) -> None:
    report.raw(name, [one._asdict() for one in rounds])
    report.row(f"{name}: bare process", summarize([one.bare for one in rounds]).shown(".2f"))
    work = summarize([one.work for one in rounds])
    report.row(f"{name}: of which session and runs", work.shown(".2f"))
    first, cached = (summarize([getattr(one, what) - one.bare for one in rounds]) for what in ("first", "cached"))
    report.row(f"{name}: added by an audit", cached.shown(".2f"))
    excess = summarize([one.cached - one.bare - SHARE_BUDGET * one.work for one in rounds])
    within = excess.median <= FIXED_BUDGET
    what = f"{name}: the same less {SHARE_BUDGET:.0%} of session and runs"
    report.row(what, excess.shown("+.2f"), f"<= {FIXED_BUDGET:g}", within)
    report.row(f"{name}: added by a first audit, with its study", first.shown(".2f"))


def _round(model: Model, reverse: bool) -> Round:
    if reverse:
        first, cached = _audits(model)
        bare, work = _bare_process(model)
    else:
        bare, work = _bare_process(model)
        first, cached = _audits(model)
    return Round(bare, work, first, cached)


def _audits(model: Model) -> tuple[float, float]:
    """Seconds of an audit that makes the study, and of one that finds it."""
    memory, seconds = Memory(), []
    for _ in range(2):
        start = time.perf_counter()
        checker = Checker(model, "qnn", float("inf"), memory)
        try:
            result = checker.check(replays=False)
            seconds.append(time.perf_counter() - start)
        finally:
            checker.close()
        if result.placement is None or result.placement.unattributed_flops_ratio != 0:
            raise RuntimeError(f"not attributed: {result.error or result.reason}")
    return seconds[0], seconds[1]


def _bare_process(model: Model) -> tuple[float, float]:
    start = time.perf_counter()
    spec = spec_of(model, "qnn")
    printed = _child("bare", json.dumps({"path": spec.path, "options": spec.options}))
    return time.perf_counter() - start, float(printed.splitlines()[-1])


def _child(what: str, argument: str) -> str:
    command = [sys.executable, __file__, "--do", what, argument]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout


def _bare(argument: str) -> int:
    """Create the session as an application does, profile the runs, and print the seconds that both took."""
    import numpy as np
    import onnxruntime as ort

    from monitor.probe import provider as providers

    given = json.loads(argument)
    provider = providers.find("qnn")
    devices = provider.devices()
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="npumon-bench-") as folder:
        start = time.perf_counter()
        so = ort.SessionOptions()
        so.enable_profiling = True
        so.profile_file_prefix = str(Path(folder) / "bare")
        so.add_provider_for_devices(devices[:1], provider.options(given["options"]))
        session = ort.InferenceSession(given["path"], so)
        shapes = {value.name: value.shape for value in session.get_inputs()}
        for _ in range(AUDIT_RUNS):
            session.run(None, {name: np.asarray(random.random(shape), np.float32) for name, shape in shapes.items()})
        session.end_profiling()
        print(time.perf_counter() - start)
    return 0


def _build(path: Path) -> int:
    """A chain of blocks, with the names that exporters give."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random, shape = np.random.default_rng(0), [1, 8, 16, 16]
    weights: dict[str, Any] = {"kernel": (8, 8, 3, 3), "matrix": (16, 16), "row": (16,)}
    tensors = [numpy_helper.from_array(random.normal(0, 0.1, s).astype(np.float32), n) for n, s in weights.items()]
    second = {"Conv": "kernel", "MatMul": "matrix", "Add": "row", "Mul": "row"}
    nodes = []
    for number in range(NODES):
        block, position = divmod(number, len(BLOCK))
        op = BLOCK[position]
        if op == "Tanh" and block % REFUSED_EVERY == 0:
            op = "Sinh"
        inputs = [f"v{number}", second[op]] if op in second else [f"v{number}"]
        attributes: dict[str, Any] = {"pads": [1, 1, 1, 1]} if op == "Conv" else {}
        nodes.append(helper.make_node(op, inputs, [f"v{number + 1}"], f"/layer.{block}/{op}_{position}", **attributes))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("v0", f"v{NODES}")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), str(path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
