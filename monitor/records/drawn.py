"""What the pictures and tables of the commands show beyond a check: the strip and the preflight."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from monitor.records.concluded import Placement
from monitor.records.measured import Runtime
from monitor.records.vocabulary import Cause, Failure, Verdict

Lane = Literal["accelerator", "cpu", "edge", "unattributed"]


class Cell(Struct, frozen=True):
    """One op of the model in a :class:`Strip`: where it ran, what it computes in one inference, and why it is there.

    ``unit`` numbers the partition, from 1 in the order they run; 0 off the accelerator. ``flops`` is ``None`` if
    those of the model are not known; ``reason`` is empty for what runs where it should.
    """

    name: str
    op_type: str
    lane: Lane
    unit: int = 0
    flops: int | None = None
    time_ratio: float | None = None
    reason: str = ""


class Strip(Struct, frozen=True):
    """One inference in the order it runs, for a report that draws it; never part of a :class:`CheckResult`.

    ``ordered_by`` says whose order it is: a profiled run of this session, or the study's run on the CPU. ``sample`` is
    the number of the drawn sample, from 1, of ``samples``; 0 where FLOPs are not known. ``omitted`` counts ops that
    compute nothing and whose place is not known.
    """

    cells: tuple[Cell, ...]
    ordered_by: Literal["session", "study"]
    sample: int = 0
    samples: int = 0
    omitted: int = 0


class Forecast(Struct, frozen=True):
    """The placement of one model on one SoC. ``error`` is set, and ``verdict`` is ``unknown``, without a session."""

    soc: str
    verdict: Verdict
    reason: str
    cause: Cause | None = None
    placement: Placement | None = None
    runtime: Runtime | None = None
    error: Failure | None = None


class Preflight(Struct, frozen=True):
    """One model over several SoCs, one session each. ``timestamp`` is UTC seconds since the epoch."""

    model: str
    timestamp: float
    forecasts: tuple[Forecast, ...]
    model_sha256: str | None = None
    samples: Literal["files", "synthetic"] | None = None
    notes: tuple[str, ...] = ()
