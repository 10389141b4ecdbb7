"""Times inferences one by one, as close to the bare runtime as Python allows.

Inputs are bound before the clock starts, the garbage collector is off between readings, and nothing is profiled:
profiling raises a small model's median by 20-50 % and its CV from 2 % to 20 % (measured).
"""

from __future__ import annotations

import gc
import resource
import threading
import time
from collections.abc import Sequence
from typing import Any

import onnxruntime as ort

from monitor.errors import MeasureError
from monitor.probe.npz import Feeds
from monitor.probe.priority import Priority
from monitor.probe.provider import one_line
from monitor.probe.samples import Corpus
from monitor.records import Failure, FailureReason, Replays
from monitor.wire import Replay

QUIET = 3  # RunOptions.log_severity_level: errors only, whatever the session logs


def quiet_run_options() -> Any:
    """RunOptions that keep a verbose session quiet while it runs."""
    options = ort.RunOptions()
    options.log_severity_level = QUIET
    # Without this entry the runtime's Python layer pays for a C++ exception at each bound run: 43 us (1.32, measured).
    options.add_run_config_entry("gpu_graph_id", "-1")
    return options


def run_once(session: Any, feeds: Feeds) -> list[Any]:
    """One untimed inference; raises :class:`MeasureError` (one of ``RUN_FAILURES``) with the runtime's message."""
    try:
        outputs: list[Any] = session.run(None, feeds, quiet_run_options())
    except Exception as error:  # EPFail, EngineError, InvalidArgument, ...: the runtime's classes share no useful base
        raise MeasureError(_run_failed(error)) from error
    return outputs


def replay(session: Any, corpus: Corpus, request: Replay, abandoned: threading.Event, priority: Priority) -> Replays:
    """Timed inferences over a fresh draw, after timed warm-ups that are kept apart; at the probe's own ``priority``.

    Stops after the running inference once ``abandoned`` is set. Raises :class:`MeasureError` (one of ``RUN_FAILURES``).
    """
    dealt = corpus.deal(request.warmups + request.count)
    bindings = {number: _bind(session, feeds) for number, feeds in dict(dealt).items()}
    order = [bindings[number] for number, _ in dealt]
    try:
        with priority.own():
            seconds, switches = _time(session, order, request.warmups + 2, request.budget, abandoned)
    except Exception as error:
        raise MeasureError(_run_failed(error)) from error
    warmups = request.warmups
    return Replays(
        tuple(seconds[warmups:]),
        tuple(seconds[:warmups]),
        tuple(number for number, _ in dealt[warmups : len(seconds)]),
        tuple(switches[warmups:]),
    )


def _bind(session: Any, feeds: Feeds) -> Any:
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return binding


def _time(
    session: Any, order: Sequence[Any], least: int, budget: float, abandoned: threading.Event
) -> tuple[list[float], list[int]]:
    """Seconds of each inference, and how often the kernel took the CPU away from one of the probe's threads in it."""
    options = quiet_run_options()
    run, clock = session.run_with_iobinding, time.perf_counter_ns
    seconds: list[float] = []
    switches: list[int] = []
    deadline = clock() + budget * 1e9
    enabled = gc.isenabled()
    gc.disable()
    try:
        for binding in order:
            if abandoned.is_set() or (clock() > deadline and len(seconds) >= least):
                break
            switched = _switches()
            start = clock()
            run(binding, options)
            stop = clock()
            switches.append(_switches() - switched)
            seconds.append((stop - start) / 1e9)
    finally:
        if enabled:
            gc.enable()
    return seconds, switches


def _switches() -> int:
    """Involuntary context switches of all threads of this process so far (getrusage(2), ru_nivcsw)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


_MEND = "the probe is renewed; if it stays, look at the accelerator's firmware log"
_RESET = "the probe is renewed once the accelerator had time to restart; if it stays, look at its firmware log"
_REASONS: dict[str, tuple[FailureReason, str]] = {
    "EPFail": ("provider_failed", _MEND),
    "EngineError": ("engine_failed", _RESET),
    "DeviceReset": ("device_reset", _RESET),
}
"""By the names of the runtime's classes, which are in no public module."""


def _run_failed(error: Exception) -> Failure:
    name = type(error).__name__
    reason, mend = _REASONS.get(name, ("run_failed", _MEND))
    return Failure(reason, f"an inference raised {name}: {one_line(error)}", mend)
