"""What is worth a line in the event log: the transition from what was known of a model to what a check found.

A pure function (state, result) -> (state, events). An incident is raised once, changed when its culprits or cause do,
and cleared when it is over; a check that could not measure clears nothing. The state is kept with the events in one
transaction, so that a restart neither repeats nor loses a line.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import msgspec

from monitor.records import Board, CheckResult, Event, EventName, Incident, Level, ModelState, OpShare

MOST_CULPRITS = 32
MOST_OPS = 64  # in one event

_Tell = Callable[[EventName, str, str], None]

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


def advance(state: ModelState, result: CheckResult, board: Board) -> tuple[ModelState, tuple[Event, ...]]:
    """The model's next state, and the events that lead to it, in order."""
    events: list[Event] = []

    def tell(name: EventName, incident: str, reason: str) -> None:
        events.append(_event(name, incident, reason, result, board))

    failure = _failure(state, result, tell)
    if result.error is not None:
        return msgspec.structs.replace(state, failure=failure), tuple(events)
    sha256, runtime = result.model_sha256, _runtime(result)
    if state.model_sha256 and sha256 and state.model_sha256 != sha256:
        tell("model_changed", _id(result, "model"), f"the file changed from {state.model_sha256[:12]} to {sha256[:12]}")
    if state.runtime and runtime and state.runtime != runtime:
        tell("runtime_changed", _id(result, "runtime"), f"from {state.runtime} to {runtime}")
    after = ModelState(
        model=state.model,
        fallback=_fallback(state, result, tell),
        latency=_latency(state, result, tell),
        failure=failure,
        model_sha256=sha256 or state.model_sha256,
        runtime=runtime or state.runtime,
    )
    return after, tuple(events)


def _failure(state: ModelState, result: CheckResult, tell: _Tell) -> Incident | None:
    open_, error = state.failure, result.error
    if error is None:
        if open_ is not None:
            tell("check_recovered", open_.id, "the check measures again")
        return None
    if open_ is not None and open_.ops == (error.reason,):
        return open_
    incident = Incident(
        open_.id if open_ else _id(result, "check"), open_.since if open_ else result.timestamp, (error.reason,)
    )
    tell("check_failed", incident.id, error.detail)
    return incident


def _fallback(state: ModelState, result: CheckResult, tell: _Tell) -> Incident | None:
    open_ = state.fallback
    if result.verdict == "unknown":
        return open_
    if result.verdict != "fallback":
        if open_ is not None:
            tell("fallback_cleared", open_.id, result.reason)
        return None
    culprits = _culprits(result)
    if open_ is None:
        incident = Incident(_id(result, "fallback"), result.timestamp, culprits, result.cause)
        tell("fallback_detected", incident.id, result.reason)
        return incident
    if (open_.ops, open_.cause) == (culprits, result.cause):
        return open_
    incident = Incident(open_.id, open_.since, culprits, result.cause)
    tell("fallback_changed", incident.id, result.reason)
    return incident


def _latency(state: ModelState, result: CheckResult, tell: _Tell) -> Incident | None:
    open_ = state.latency
    if result.verdict == "degraded":
        if open_ is not None or result.breach is None:  # without a breach it is the outputs that differ
            return open_
        incident = Incident(_id(result, "latency"), result.timestamp, (), result.cause)
        tell("latency_shifted" if result.breach == "median" else "latency_unstable", incident.id, result.reason)
        return incident
    if result.verdict == "healthy":
        if open_ is not None:
            tell("latency_recovered", open_.id, result.reason)
        return None
    return open_


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


def _event(name: EventName, incident: str, reason: str, result: CheckResult, board: Board) -> Event:
    placement, latency = result.placement, result.latency
    ops = _worst(placement.ops) if placement and name.startswith("fallback") else ()
    return Event(
        timestamp=result.timestamp,
        level=_LEVELS[name],
        event=name,
        id=incident,
        model=result.model,
        reason=reason,
        model_sha256=result.model_sha256,
        cause=result.cause,
        npu_flops_ratio=placement.npu_flops_ratio if placement else None,
        median_seconds=latency.median_seconds if latency else None,
        cv_ratio=latency.cv_ratio if latency else None,
        ops=ops,
        ops_omitted=len(placement.ops) - len(ops) if placement and ops else 0,
        samples=result.samples.source if result.samples else None,
        runtime=result.runtime,
        board=board,
        error=result.error,
    )


def _id(result: CheckResult, kind: str) -> str:
    """Names an incident: unique per model, kind and second, and the same after a restart."""
    return f"{result.model}-{kind}-{int(result.timestamp):x}"


def _runtime(result: CheckResult) -> str | None:
    runtime = result.runtime
    if runtime is None:
        return None
    versions = f"onnxruntime {runtime.onnxruntime}, {runtime.provider} {runtime.provider_version}"
    return f"{versions}, backend {runtime.backend_version}" if runtime.backend_version else versions
