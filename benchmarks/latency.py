"""Whether a check's latency signals are those of the runtime itself: median and CV against bare loops.

Measured: what a real probe answers to Open, Audit and Replay, which is what every check reports. Baseline: two other
processes with the same options, inputs and counts, which do nothing but run a loop: once of plain ``session.run``, and
once of ``run_with_iobinding`` with the inputs bound beforehand, as the probe has them. All run in turn, in reversed
order every other round, so that drift cancels and one bare process against the other tells the noise. They are made
anew several times, because where a process lands in memory alone moves its median by a percent.
Models: the demo's network on the simulator; larger on the CPU (an ``soc_model`` that does not exist), a few ms; as it
is on the CPU, a fifth of a ms; and swift-f0, split between both. One thread, no spinning.
Budgets: the median within 1 %, the CV within 1 percentage point, as medians of the paired differences. Below 1 ms only
the bound loop is a baseline: converting arrays, which ``session.run`` does each time, costs some 7 us, more than 1 %.
A figure decides nothing, and counts as missed, if its noise or half of its interval exceeds the budget: the machine is
then too busy, or --lives too small.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks._report import Report, Summary, parser, summarize
from monitor.service.handle import ProbeHandle
from monitor.service.life import AUDIT_BUDGET, AUDIT_RUNS
from monitor.service.rounds import WARMUPS
from monitor.wire import Audit, Open, Replay, Spec

REPLAYS = 30
SAMPLES = 4
LIVES = 5
MEDIAN_BUDGET = 0.01
CV_BUDGET = 0.01
SMALL = 0.001  # seconds
TIMEOUT = 300.0
SESSION: dict[str, str | int | float | bool] = {"intra_op_num_threads": 1, "session.intra_op.allow_spinning": "0"}
BUILD = """\
import sys, onnx
from monitor.probe.demo_model import build
onnx.save(build(), sys.argv[1])
onnx.save(build((3, 32, 64, 64), 64), sys.argv[2])
"""


class Case(NamedTuple):
    """One model to measure; ``rounds`` is per life, ``replays`` per loop."""

    name: str
    spec: Spec
    rounds: int
    replays: int = REPLAYS


class Round(NamedTuple):
    """Raw seconds of one round: the probe's, and those of each bare process (two of each kind)."""

    probe: list[float]
    plain: tuple[list[float], list[float]]
    bound: tuple[list[float], list[float]]


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--lives", type=int, default=LIVES, help="how often all processes are made anew")
    arguments.add_argument("--case", action="append", help="only the case of this name; may be repeated")
    arguments.add_argument("--bare", metavar="SPEC", help="be a bare loop (used by the benchmark itself)")
    options = arguments.parse_args()
    if options.bare:
        return _bare(Path(options.bare))
    report = Report("a check's signals against bare loops; median [95 % interval]")
    with tempfile.TemporaryDirectory(prefix="npumon-bench-") as folder:
        for case in _cases(Path(folder)):
            if options.case and case.name not in options.case:
                continue
            rounds = [one for _ in range(options.lives) for one in _life(case, Path(folder))]
            _conclude(report, case, rounds)
    return report.finish(options.out)


def _conclude(report: Report, case: Case, rounds: list[Round]) -> None:
    report.raw(case.name, [one._asdict() for one in rounds])
    plain = statistics.median(statistics.median(one.plain[0]) for one in rounds)
    report.row(f"{case.name}: median of session.run", f"{1e3 * plain:.3f} ms")
    for kind in ("plain", "bound"):
        loop = "session.run" if kind == "plain" else "bound loop"
        counts = kind == "bound" or plain >= SMALL
        medians = [[statistics.median(part) for part in _parts(one, kind)] for one in rounds]
        shift = summarize([2 * probe / (x + y) - 1 for probe, x, y in medians])
        noise = summarize([x / y - 1 for _, x, y in medians])
        _compare(report, f"{case.name}: median, check - {loop}", shift, noise, MEDIAN_BUDGET if counts else None)
        cvs = [[statistics.stdev(part) / statistics.fmean(part) for part in _parts(one, kind)] for one in rounds]
        shift = summarize([probe - (x + y) / 2 for probe, x, y in cvs])
        noise = summarize([x - y for _, x, y in cvs])
        _compare(report, f"{case.name}: CV, check - {loop}", shift, noise, CV_BUDGET)


def _parts(one: Round, kind: str) -> tuple[list[float], list[float], list[float]]:
    return (one.probe, *(one.plain if kind == "plain" else one.bound))


def _compare(report: Report, what: str, shift: Summary, noise: Summary, budget: float | None) -> None:
    value = f"{_percent(shift)}  noise {_percent(noise)}"
    if budget is None:
        report.row(what, value)
    else:
        noisy = max(abs(noise.median), (shift.high - shift.low) / 2) > budget
        met = abs(shift.median) <= budget and not noisy
        report.row(what, value, f"within {100 * budget:g}{' (too noisy to tell)' if noisy else ''}", met)


def _percent(summary: Summary) -> str:
    return Summary(*(100 * value for value in summary)).shown("+.2f")


def _life(case: Case, folder: Path) -> Iterator[Round]:
    """New processes, and the rounds that they run."""
    with ExitStack() as stack:
        handle = ProbeHandle()
        stack.callback(handle.close)
        handle.request(Open(case.spec, 0), TIMEOUT)
        handle.request(Audit(AUDIT_RUNS, AUDIT_BUDGET), TIMEOUT)
        loops = [stack.enter_context(_bare_loop(case, folder)) for _ in range(2)]
        drawn: tuple[int, ...] = tuple(range(SAMPLES))
        for number in range(case.rounds + 1):
            order = (0, 1) if number % 2 else (1, 0)
            plain: list[list[float]] = [[], []]
            bound: list[list[float]] = [[], []]
            plain[order[0]] = _loop(loops[order[0]], drawn, False)
            bound[order[0]] = _loop(loops[order[0]], drawn, True)
            replays = handle.request(Replay(case.replays, WARMUPS, TIMEOUT), TIMEOUT)
            drawn = replays.drawn
            bound[order[1]] = _loop(loops[order[1]], drawn, True)
            plain[order[1]] = _loop(loops[order[1]], drawn, False)
            if number:  # the first one warms caches
                yield Round(list(replays.seconds), (plain[0], plain[1]), (bound[0], bound[1]))


@contextmanager
def _bare_loop(case: Case, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A child of this very file that runs the model when asked."""
    file = folder / f"{case.name}.json"
    fields = {field: getattr(case.spec, field) for field in case.spec.__struct_fields__}
    file.write_text(json.dumps([fields, case.replays]))
    command = [sys.executable, __file__, "--bare", str(file)]
    streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, **streams) as process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()


def _loop(process: subprocess.Popen[str], drawn: tuple[int, ...], bound: bool) -> list[float]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps([drawn, bound]) + "\n")
    process.stdin.flush()
    for line in process.stdout:  # native code prints too
        if line.startswith("["):
            return [float(value) for value in json.loads(line)]
    raise RuntimeError("a bare loop ended")


# ------------------------------------------------------------------------------------------- the bare process


def _bare(file: Path) -> int:
    """Create the session as an application does, then time ``session.run`` for each line of sample indices."""
    import numpy as np
    import onnxruntime as ort

    from monitor.probe import provider as providers

    fields, replays = json.loads(file.read_text())
    spec = Spec(**fields)
    provider = providers.find(spec.provider)
    so = ort.SessionOptions()
    so.intra_op_num_threads = spec.session["intra_op_num_threads"]
    so.add_session_config_entry("session.intra_op.allow_spinning", spec.session["session.intra_op.allow_spinning"])
    so.add_provider_for_devices(provider.devices()[:1], provider.options(spec.options))
    session = ort.InferenceSession(spec.path, so)
    assert spec.samples is not None
    feeds = [dict(np.load(path)) for path in sorted(Path(spec.samples).glob("*.npz"))]
    _answer(session, feeds, replays)
    return 0


def _answer(session: Any, feeds: list[dict[str, Any]], replays: int) -> None:
    clock = time.perf_counter
    bindings = [_bind(session, inputs) for inputs in feeds]
    for line in sys.stdin:
        drawn, bound = json.loads(line)
        seconds = []
        for index in [0] * WARMUPS + [drawn[number % len(drawn)] for number in range(replays)]:
            inputs, binding = feeds[index], bindings[index]
            if bound:
                start = clock()
                session.run_with_iobinding(binding)
            else:
                start = clock()
                session.run(None, inputs)
            seconds.append(clock() - start)
        print(json.dumps(seconds[WARMUPS:]), flush=True)


def _bind(session: Any, inputs: dict[str, Any]) -> Any:
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_cpu_input(name, array)
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return binding


# ------------------------------------------------------------------------------------------------- the models


def _cases(folder: Path) -> list[Case]:
    small, large = folder / "small.onnx", folder / "large.onnx"
    subprocess.run([sys.executable, "-c", BUILD, str(small), str(large)], check=True)
    package = importlib.util.find_spec("swift_f0")
    if package is None or package.origin is None:
        raise RuntimeError("swift-f0 is not installed; run `make bench`")
    swift_f0 = Path(package.origin).parent / "model.onnx"
    audio: dict[str, tuple[int, ...]] = {"audio": (1, 16_000), "fmin": (), "fmax": ()}
    return [
        _case(folder, "simulator", small, "60", {"image": (1, 3, 32, 32)}, 6)._replace(replays=10),
        _case(folder, "cpu", large, "9999", {"image": (1, 3, 64, 64)}, 20),
        _case(folder, "cpu-small", small, "9999", {"image": (1, 3, 32, 32)}, 40),
        _case(folder, "swift-f0", swift_f0, "60", audio, 12),
    ]


def _case(folder: Path, name: str, model: Path, soc: str, shapes: dict[str, tuple[int, ...]], rounds: int) -> Case:
    """A case with sample files of its own, the same for probe and bare loops."""
    import numpy as np

    samples = folder / name
    samples.mkdir()
    for number in range(SAMPLES):
        random = np.random.default_rng(number)
        arrays = {key: np.asarray(random.random(shape), np.float32) for key, shape in shapes.items()}
        np.savez(samples / f"{number}.npz", **arrays)  # type: ignore[arg-type]
    spec = Spec(
        name=name, path=str(model), provider="qnn", samples=str(samples), options={"soc_model": soc}, session=SESSION
    )
    return Case(name, spec, rounds)


if __name__ == "__main__":
    sys.exit(main())
