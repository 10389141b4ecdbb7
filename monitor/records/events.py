"""What is told of a model over time: the lines of the event log, and the incidents they belong to."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from monitor.records.board import Board, BoardReading
from monitor.records.concluded import OpShare
from monitor.records.history import Baseline, Digest
from monitor.records.measured import Runtime
from monitor.records.production import Calls, Production
from monitor.records.vocabulary import Cause, Failure

EventName = Literal[
    "fallback_detected",
    "fallback_changed",
    "fallback_cleared",
    "latency_unstable",
    "latency_shifted",
    "latency_recovered",
    "check_failed",
    "check_recovered",
    "model_changed",
    "runtime_changed",
]
Level = Literal["info", "warning", "error"]


class Event(Struct, frozen=True):
    """One line of the event log, exactly as the contract lists its keys.

    ``id`` names the incident: the events that raise, change and clear it carry the same one, also over restarts.
    ``timestamp`` is UTC seconds since the epoch here and RFC 3339 in the log.
    """

    timestamp: float
    level: Level
    event: EventName
    id: str
    model: str
    reason: str
    model_sha256: str | None = None
    cause: Cause | None = None
    npu_flops_ratio: float | None = None
    median_seconds: float | None = None
    cv_ratio: float | None = None
    slow_ratio: float | None = None
    separation_ratio: float | None = None
    baseline_seconds: float | None = None
    ops: tuple[OpShare, ...] = ()
    ops_omitted: int = 0
    samples: Literal["files", "synthetic"] | None = None
    runtime: Runtime | None = None
    board: Board | None = None
    readings: BoardReading | None = None
    production: Production | None = None
    error: Failure | None = None


class Incident(Struct, frozen=True):
    """Something wrong that has been raised and not yet cleared. ``ops`` are the culprits it was last told with."""

    id: str
    since: float
    ops: tuple[str, ...] = ()
    cause: Cause | None = None


class Unstable(Incident, frozen=True):
    """A slow mode that healthy checks do not have, or a spread beyond its gate (then there is no ``band``).

    ``ratio`` of the replays are ``separation`` times slower than the others; ``band`` are the bins they were found in.
    ``calm`` is the evidence since then that they are gone, as a logarithm of odds.
    """

    ratio: float = 0.0
    separation: float = 1.0
    band: tuple[int, int] | None = None
    calm: float = 0.0


class Shifted(Incident, frozen=True):
    """A median that moved from ``reference_seconds`` to ``level_seconds``, as last told. ``gated``: beyond its gate."""

    reference_seconds: float = 0.0
    level_seconds: float = 0.0
    gated: bool = False


class Standing(Struct, frozen=True):
    """What a model is measured against now, and whether an incident of each kind is open."""

    baseline_seconds: float | None
    gate_npu_flops: float
    gate_cv: float
    gate_median_seconds: float | None
    incidents: dict[str, bool]


class Relapse(Struct, frozen=True):
    """How often incidents of one kind ended lately, and for how many checks the open one has seemed to be over."""

    often: float = 0.0
    quiet: int = 0


class ModelState(Struct, frozen=True):
    """What is remembered of one model between checks and over restarts.

    Its open incidents, its last checks (oldest first), its baselines (that of the present identity first), which kinds
    of incidents come and go, and the ``stamp`` of the last incident's id. Of the application: the ``calls`` that are
    too few to be compared yet, the ``ratios`` of the last comparisons, and when the last one was (UTC seconds).
    """

    model: str
    fallback: Incident | None = None
    unstable: Unstable | None = None
    shifted: Shifted | None = None
    failure: Incident | None = None
    digests: tuple[Digest, ...] = ()
    baselines: tuple[Baseline, ...] = ()
    relapses: dict[str, Relapse] = {}
    stamp: int = 0
    differs: Incident | None = None
    calls: Calls = Calls()
    ratios: tuple[float, ...] = ()
    compared: float = 0.0

    @property
    def incidents(self) -> tuple[Incident, ...]:
        """Those that are open."""
        kinds = (self.fallback, self.unstable, self.shifted, self.differs, self.failure)
        return tuple(incident for incident in kinds if incident is not None)
