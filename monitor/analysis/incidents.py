"""What is worth a line in the event log: incidents of placement and of the check itself, and how an event is written.

An incident is raised once, told again when its culprits or its cause change, and cleared when it is over; a check that
could not measure clears nothing. What comes and goes is cleared later and later: a bad afternoon is a handful of lines.
``analysis.assess`` brings these together with the latency's incidents.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from msgspec.structs import replace

from monitor.records import (
    Board,
    Cause,
    CheckResult,
    Event,
    EventName,
    Incident,
    Level,
    OpShare,
    Production,
    Relapse,
)

MOST_CULPRITS = 32
MOST_OPS = 64  # in one event
PATIENCE = 4
"""How many times as long an incident has to be over, each time that its kind has come back."""
MOST_PATIENCE = 60
"""Checks that it has to be over at most."""
FORGIVEN = 480.0
"""Checks after which an incident that ended weighs 1/e: a third of a day at an interval of a minute."""

_LEVELS: dict[EventName, Level] = {
    "fallback_detected": "error",
    "fallback_changed": "warning",
    "fallback_cleared": "info",
    "latency_unstable": "warning",
    "latency_shifted": "warning",
    "latency_recovered": "info",
    "check_failed": "error",
    "check_recovered": "info",
    "model_changed": "info",
    "runtime_changed": "warning",
}


class Teller:
    """Writes the events of one check, all from the same evidence, and keeps what comes and goes from flooding the log.

    ``baseline`` is the median that counts as normal, ``production`` what the application sees. ``relapses`` are those
    of the model's state, and ``stamp`` is that of the last id.
    """

    def __init__(self, result: CheckResult, board: Board, relapses: Mapping[str, Relapse], stamp: int = 0) -> None:
        self.events: list[Event] = []
        self.baseline: float | None = None
        self.production: Production | None = None
        faded = {kind: replace(one, often=one.often * (1 - 1 / FORGIVEN)) for kind, one in relapses.items()}
        self.relapses = {kind: one for kind, one in faded.items() if round(one.often) or one.quiet}
        self._last = stamp
        self._result = result
        self._board = board

    @property
    def stamp(self) -> int:
        """To be remembered of this check: what the ids that it gave end in, if it gave any."""
        return self._stamp if self.events else self._last

    @property
    def _stamp(self) -> int:
        return max(int(self._result.timestamp * 1000), self._last + 1)

    def id(self, kind: str) -> str:
        """Names an incident for good, by model, kind and the millisecond.

        Where the clock stands still or goes back, as on a board that begins each life in 1970, that is made a later one
        than the last: no two incidents have the same name.
        """
        return f"{self._result.model}-{kind}-{self._stamp:x}"

    def ends(self, kind: str, over: bool) -> bool:
        """Whether the open incident of this kind ends with this check, in which it is ``over`` or not.

        It does at once, unless such incidents came back lately: the more often, the longer it has to be over.
        """
        known = self.relapses.get(kind, Relapse())
        ended = over and known.quiet >= min(PATIENCE ** round(known.often) - 1, MOST_PATIENCE)
        if ended:
            known = Relapse(known.often + 1)
        else:
            known = replace(known, quiet=known.quiet + 1 if over else max(0, known.quiet - PATIENCE))
        self.relapses[kind] = known
        return ended

    def tell(self, name: EventName, incident: str, reason: str, cause: Cause | None = None) -> None:
        """One more event. ``cause`` is the check's own, unless given."""
        result = self._result
        placement, latency = result.placement, result.latency
        ops = _worst(placement.ops) if placement and name.startswith("fallback") else ()
        event = Event(
            timestamp=result.timestamp,
            level=_LEVELS[name],
            event=name,
            id=incident,
            model=result.model,
            reason=reason,
            model_sha256=result.model_sha256,
            cause=cause or result.cause,
            npu_flops_ratio=placement.npu_flops_ratio if placement else None,
            median_seconds=latency.median_seconds if latency else None,
            cv_ratio=latency.cv_ratio if latency else None,
            slow_ratio=latency.slow_ratio if latency else None,
            separation_ratio=latency.separation_ratio if latency else None,
            baseline_seconds=self.baseline,
            ops=ops,
            ops_omitted=len(placement.ops) - len(ops) if placement and ops else 0,
            samples=result.samples.source if result.samples else None,
            runtime=result.runtime,
            board=self._board,
            readings=result.after,
            production=self.production,
            error=result.error,
        )
        self.events.append(event)


def failure(open_: Incident | None, result: CheckResult, teller: Teller) -> Incident | None:
    """The incident of checks that cannot measure, after ``result``."""
    error = result.error
    if error is None:
        if open_ is None or not teller.ends("check", True):
            return open_
        teller.tell("check_recovered", open_.id, "the check measures again")
        return None
    if open_ is not None:
        teller.ends("check", False)
        if error.reason in open_.ops:
            return open_
    name, since, told = (open_.id, open_.since, open_.ops) if open_ else (teller.id("check"), result.timestamp, ())
    teller.tell("check_failed", name, error.detail)
    return Incident(name, since, (*told, error.reason))


def fallback(open_: Incident | None, result: CheckResult, teller: Teller) -> Incident | None:
    """The incident of work that runs on the CPU, after ``result``."""
    if result.verdict == "unknown":
        return open_
    if result.verdict != "fallback":
        if open_ is not None:
            teller.tell("fallback_cleared", open_.id, result.reason)
        return None
    culprits = _culprits(result)
    if open_ is None:
        incident = Incident(teller.id("fallback"), result.timestamp, culprits, result.cause)
        teller.tell("fallback_detected", incident.id, _with_second_look(result))
        return incident
    if (open_.ops, open_.cause) == (culprits, result.cause):
        return open_
    teller.tell("fallback_changed", open_.id, result.reason)
    return Incident(open_.id, open_.since, culprits, result.cause)


def _with_second_look(result: CheckResult) -> str:
    return f"{result.reason}; {result.second_look}" if result.second_look else result.reason


def _culprits(result: CheckResult) -> tuple[str, ...]:
    ops = result.placement.ops if result.placement else ()
    arithmetic = [op for op in ops if op.flops_ratio] or ops
    # ranked without times, which differ from audit to audit and would make a culprit come and go
    worst = sorted(arithmetic, key=lambda op: (-(op.flops_ratio or 0.0), op.node))[:MOST_CULPRITS]
    return tuple(sorted(op.node for op in worst))


def _worst(ops: tuple[OpShare, ...]) -> tuple[OpShare, ...]:
    """The ops that an event names, in their order: those of the costliest types, so that a type is told whole."""
    cost: dict[str, float] = defaultdict(float)
    for op in ops:
        cost[op.op_type] += op.flops_ratio or 0.0
    ranked = sorted(range(len(ops)), key=lambda index: (-cost[ops[index].op_type], ops[index].op_type, index))
    return tuple(ops[index] for index in sorted(ranked[:MOST_OPS]))
