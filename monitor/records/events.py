"""What is told of a model over time: the lines of the event log, and the incidents they belong to."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from monitor.records.concluded import Board, OpShare
from monitor.records.measured import Runtime
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
    ops: tuple[OpShare, ...] = ()
    ops_omitted: int = 0
    samples: Literal["files", "synthetic"] | None = None
    runtime: Runtime | None = None
    board: Board | None = None
    error: Failure | None = None


class Incident(Struct, frozen=True):
    """Something wrong that has been raised and not yet cleared. ``ops`` are the culprits it was last told with."""

    id: str
    since: float
    ops: tuple[str, ...] = ()
    cause: Cause | None = None


class ModelState(Struct, frozen=True):
    """What is remembered of one model between checks and over restarts: its open incidents and its identity."""

    model: str
    fallback: Incident | None = None
    latency: Incident | None = None
    failure: Incident | None = None
    model_sha256: str | None = None
    runtime: str | None = None
