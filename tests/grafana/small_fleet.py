"""Eleven boards as expositions, made by npumon's own code from recorded checks, and what becomes of them.

They change once, a few scrapes in, so that there is a "before": one model falls back, one board goes silent.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from monitor.bins import bin_of
from monitor.outputs.metrics import Exposition
from monitor.records import (
    Agreement,
    Calls,
    CheckResult,
    Event,
    Production,
    RejectedSample,
    Samples,
    Standing,
    Zone,
)
from tests.outputs.specimens import BOARD, CPU_ONLY, FAILED, FALLBACK, HEALTHY, NOW, READING, SLOW_STANDING

CHANGE = 3
"""The scrape from which on things are different."""

FALLEN, ODD, SILENT, FAILING = "board-7", "board-6", "board-10", "board-9"
NORMAL = ("board-1", "board-2", "board-3", "board-4", "board-5")

CALM = replace(
    SLOW_STANDING,
    baseline_seconds=0.00052,
    gate_median_seconds=0.00065,
    incidents=dict.fromkeys((*SLOW_STANDING.incidents, "production"), False),
)
"""What the models are measured against, with no incident."""
_READING = replace(
    READING, zones={"cpu": Zone(61.0, 95.0), "npu": Zone(58.0, 90.0)}, stalled={**READING.stalled, "memory": 0.0}
)
_INTERVAL = 60.0
_CHECKS = {"healthy": HEALTHY, "fallback": FALLBACK, "cpu_only": CPU_ONLY, "failed": FAILED}


class _Board:
    """One board's npumon, with the clock in hand."""

    def __init__(self, hostname: str, model: str) -> None:
        self.now = 0.0
        about = replace(BOARD, hostname=hostname)
        self.exposition = Exposition([model], about, "0.1.0", NOW - 3600, lambda: self.now, lambda: 0.004)
        self.exposition.expect(_INTERVAL, {})

    def record(self, result: CheckResult, standing: Standing = CALM) -> None:
        """A check on a board that tells all that a board can tell."""
        agreement = None if result.error else Agreement(0.001)
        self.exposition.record(replace(result, after=_READING, agreement=agreement), standing)

    def text(self) -> str:
        return self.exposition.text().decode()


def exposition(check: str, hostname: str) -> str:
    """What ``hostname`` exports after one check of this kind: ``healthy``, ``fallback``, ``cpu_only`` or ``failed``."""
    return _steady(hostname, _CHECKS[check])(0)


def _steady(hostname: str, result: CheckResult = HEALTHY, waited: float = 0.0) -> Callable[[int], str]:
    """A board that says the same for ever, ``waited`` seconds after its check."""
    board = _Board(hostname, result.model)
    board.record(result)
    board.now += waited
    text = board.text()
    return lambda asked: text


def _odd() -> CheckResult:
    assert HEALTHY.latency
    assert HEALTHY.placement
    slow = replace(HEALTHY.latency, median_seconds=2 * HEALTHY.latency.median_seconds)
    return replace(HEALTHY, latency=slow, placement=replace(HEALTHY.placement, npu_flops_ratio=0.80))


def _falling() -> Callable[[int], str]:
    """A board whose swift_f0 runs on the NPU under one SDK and falls back with the next; every second check fails."""
    assert FALLBACK.placement
    assert FALLBACK.runtime
    well = replace(
        FALLBACK,
        verdict="healthy",
        cause=None,
        placement=replace(FALLBACK.placement, fallback_flops={}),
        runtime=replace(FALLBACK.runtime, backend_version="v2.50.0"),
    )
    rejected = tuple(RejectedSample(f"{number}.npz", "shape", "does not fit") for number in range(2))
    # Its application counts its calls: a few more at each check.
    ill = replace(
        FALLBACK,
        samples=Samples("files", 3, rejected, made=NOW - 86_400),
        calls=Calls({bin_of(0.012): 9, bin_of(0.03): 1}, 0.138),
        production=Production(10, 0.012, 0.03, 1.0, covered_ratio=0.75),
    )
    all_open = replace(CALM, incidents=dict.fromkeys(CALM.incidents, True))  # each has a mark to be drawn
    told = Event(NOW, "error", "fallback_detected", "id", FALLBACK.model, "it fell back", cause="op_unsupported")
    board = _Board(FALLEN, FALLBACK.model)

    def text(asked: int) -> str:
        if asked < CHANGE:
            board.record(well)
        else:
            if asked == CHANGE:
                board.exposition.count_event(told)
            board.exposition.postpone(FALLBACK.model, "duty", _INTERVAL, count=True)
            board.record(replace(FAILED, model=FALLBACK.model))
            board.record(ill, all_open)
        return board.text()

    return text


def _silent() -> Callable[[int], str | None]:
    steady = _steady(SILENT)
    return lambda asked: steady(asked) if asked < CHANGE else None


PAGES: dict[str, Callable[[int], str | None]] = {
    **{name: _steady(name) for name in NORMAL},
    ODD: _steady(ODD, _odd()),
    FALLEN: _falling(),
    "board-8": _steady("board-8", CPU_ONLY),
    FAILING: _steady(FAILING, FAILED),
    SILENT: _silent(),
    "board-11": _steady("board-11", waited=4 * _INTERVAL),
}
