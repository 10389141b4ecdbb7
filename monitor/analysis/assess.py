"""From what was known of a model and what a check found: the verdict with its memory, the next state, the events.

A pure function (state, evidence, gate) -> (state, verdict, events). ``analysis.verdict`` has judged what the audit
alone shows. Here the latency joins it, which only its history can judge: one stall is nothing, and a level is a level
only if it stays. The state is kept with the events in one transaction, so that a restart neither repeats nor loses a
line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from monitor.analysis import baselines, incidents, instability, level, production, shift, slow
from monitor.analysis.incidents import Teller
from monitor.analysis.verdict import milliseconds
from monitor.analysis.words import beyond_gate, clock, explained, percent
from monitor.config import Gate
from monitor.records import (
    BaselineRequest,
    Board,
    Calls,
    CheckResult,
    Event,
    Incident,
    Latency,
    ModelState,
    Production,
    Standing,
)


class Assessment(NamedTuple):
    """The model's next state, the check with its final verdict, and the events that lead there, in order."""

    state: ModelState
    result: CheckResult
    events: tuple[Event, ...]

    @property
    def alarms(self) -> bool:
        """Whether the latency has just gone wrong, which a fresh audit may explain."""
        return any(event.event in ("latency_unstable", "latency_shifted") for event in self.events)


def assess(
    state: ModelState, result: CheckResult, gate: Gate, board: Board, requests: Sequence[BaselineRequest] = ()
) -> Assessment:
    """Take one check in. ``result`` comes with the verdict on its placement and outputs.

    ``requests`` are what people asked of the model's baselines since the check before.
    """
    teller = Teller(result, board, state.relapses, state.stamp)
    for request in requests:
        state = _served(state, request, gate, result.timestamp, teller)
    state = replace(state, failure=incidents.failure(state.failure, result, teller))
    if result.error is not None:
        return Assessment(replace(state, relapses=teller.relapses, stamp=teller.stamp), result, tuple(teller.events))
    state = _identified(state, result, board, teller)
    state = replace(state, fallback=incidents.fallback(state.fallback, result, teller))
    if result.latency is not None and result.verdict in ("healthy", "degraded"):
        state = _timed(state, result, result.latency, gate, teller)
        state, result = _beside(state, result, result.latency, gate, teller)
        result = _judged(state, result, gate)
    return Assessment(replace(state, relapses=teller.relapses, stamp=teller.stamp), result, tuple(teller.events))


def standing(state: ModelState, result: CheckResult, gate: Gate) -> Standing:
    """What the model is measured against now, and which incidents are open."""
    baseline = baselines.counting(state)
    outputs = result.verdict == "degraded" and result.cause is None
    shown = {
        "fallback": state.fallback,
        "unstable": state.unstable,
        "shifted": state.shifted,
        "outputs": outputs,
        "production": state.differs,
        "failure": state.failure,
    }
    return Standing(
        baseline_seconds=baseline.median_seconds if baseline else None,
        gate_npu_flops=gate.npu_flops,
        gate_cv=gate.cv,
        gate_median_seconds=baselines.limit(gate, state),
        incidents={kind: bool(open_) for kind, open_ in shown.items()},
    )


def _served(state: ModelState, request: BaselineRequest, gate: Gate, now: float, teller: Teller) -> ModelState:
    shifted = state.shifted
    if request.action == "forget":
        after, why = baselines.forget(state, request.baseline), "the baseline that it was held against was forgotten"
        over = baselines.limit(gate, after) is None
    else:
        after, why = baselines.accept(state, now, request.baseline), "this level was accepted as normal"
        # A gate that is configured goes on to hold.
        over = after is not state and not (shifted and shifted.gated and gate.median is not None)
    if shifted is None or not over:
        return after
    teller.tell("latency_recovered", shifted.id, why, "slow_accelerator")
    return replace(after, shifted=None)


def _identified(state: ModelState, result: CheckResult, board: Board, teller: Teller) -> ModelState:
    """Notice another model, runtime, SoC or setting, and compare with what was normal before."""
    identity, before = baselines.identify(state, result, board), baselines.present(state)
    if identity is None:
        return state
    after = baselines.enter(state, identity, result)
    if before is None or before.identity != identity:
        after = replace(after, calls=Calls(), ratios=())
    if before is not None and before.identity != identity and not baselines.completes(before, identity):
        now = baselines.compare(state, after.baselines[0], result)
        if before.identity.model_sha256 != identity.model_sha256:
            teller.tell("model_changed", teller.id("model"), now)
        else:
            teller.tell("runtime_changed", teller.id("runtime"), now)
    return after


def _timed(state: ModelState, result: CheckResult, latency: Latency, gate: Gate, teller: Teller) -> ModelState:
    """The state after this check's replays."""
    remembered = (*state.digests, slow.digest(latency, result.timestamp))
    aged, digests = remembered[: -slow.MOST], remembered[-slow.MOST :]
    baseline, limit = baselines.counting(state), baselines.limit(gate, state)
    teller.baseline = baseline.median_seconds if baseline else None
    unstable = instability.follow(state, digests, limit, result, gate, teller)
    if state.unstable is not None and unstable is None:
        digests = tuple(replace(one, rounds=()) for one in digests)  # what is over must not raise it again
    shifted = state.shifted
    if shifted is None or unstable is None:  # with two modes a median goes to and fro between them
        shifted = shift.follow(shifted, digests, limit, teller.baseline, result, teller)
    state = replace(state, digests=digests, unstable=unstable, shifted=shifted)
    # Held against an older baseline, a slower one is learned as well: it then waits to be accepted.
    steady = not (shifted and shifted.gated) or baseline is not baselines.present(state)
    if result.verdict == "healthy" and unstable is None and steady and not _beyond(latency, gate):
        state = baselines.learn(state, result, aged)
    return state


def _beyond(latency: Latency, gate: Gate) -> bool:
    """Whether a configured gate says that this is not normal, whatever was before."""
    return gate.median is not None and latency.median_seconds > gate.median


def _beside(
    state: ModelState, result: CheckResult, latency: Latency, gate: Gate, teller: Teller
) -> tuple[ModelState, CheckResult]:
    """The state and the check with the application's own calls held against the replays."""
    calls = production.together(state.calls, result.calls or Calls())
    found = production.compare(calls, latency, result.samples.shapes if result.samples else ())
    if found is None:
        return _unseen(replace(state, calls=calls), result, teller), result
    result = replace(result, production=found)
    state = replace(state, calls=Calls())
    if found.covered_ratio is not None and found.covered_ratio < production.COVERED:
        return _unseen(state, result, teller), result
    teller.production = found
    ratios, open_ = (*state.ratios, found.ratio)[-production.AGREED :], state.differs
    if open_ is None and production.differs(ratios, gate.production):
        open_ = Incident(teller.id("production"), result.timestamp, (), "production_differs")
        teller.tell("latency_shifted", open_.id, _apart(found, gate), "production_differs")
    elif open_ is not None and teller.ends("production", production.agrees(ratios, gate.production)):
        teller.tell("latency_recovered", open_.id, "the application's calls take what the replays take", open_.cause)
        open_ = None
    return replace(state, ratios=ratios, differs=open_, compared=result.timestamp), result


def _unseen(state: ModelState, result: CheckResult, teller: Teller) -> ModelState:
    """The state after a check without calls that can be compared: a difference is not believed in for ever."""
    open_ = state.differs
    if open_ is None or result.timestamp - max(state.compared, open_.since) <= production.SILENCE:
        return state
    teller.tell("latency_recovered", open_.id, "no calls could be compared for a day", open_.cause)
    return replace(state, differs=None, ratios=())


def _apart(found: Production, gate: Gate) -> str:
    """How the application's calls differ from the replays, in words."""
    times, side = (found.ratio, "long") if found.ratio >= 1 else (1 / found.ratio, "short")
    replays = milliseconds(found.median_seconds / found.ratio)
    whose = "the application's own calls" if found.process is None else f"the application's calls in {found.process}"
    return (
        f"{whose} take {milliseconds(found.median_seconds)}, {times:.2g} times as {side} as the "
        f"replays ({replays}), the gate is {gate.production:g}; its session is not the one that npumon makes"
    )


def _judged(state: ModelState, result: CheckResult, gate: Gate) -> CheckResult:
    """The verdict on the whole: what the audit shows comes first, then the median, then the spread."""
    if result.verdict != "healthy":
        return result
    shifted, unstable, latency = state.shifted, state.unstable, result.latency
    limit = baselines.limit(gate, state)
    assert latency is not None
    if shifted is not None and shifted.gated and limit is not None:
        now = level.level(state.digests[-3:])
        over = beyond_gate(now, limit) if now > limit else f"the median of {milliseconds(now)} is not yet back for good"
        reason = explained(f"{over}, since {clock(shifted.since)}", result)
        return replace(result, verdict="degraded", cause="slow_accelerator", reason=reason, breach="median")
    if unstable is not None:
        many = f"{percent(unstable.ratio)} of the replays took {unstable.separation:.2g} times as long"
        what = many if unstable.band else f"the latency scatters beyond its gate of {percent(gate.cv)}"
        reason = explained(f"{what}, since {clock(unstable.since)}", result)
        return replace(result, verdict="degraded", cause="slow_accelerator", reason=reason, breach="cv")
    if state.differs is not None:
        apart = (
            _apart(result.production, gate) if result.production else "the application's own calls take another time"
        )
        reason = f"{apart}, since {clock(state.differs.since)}"
        return replace(result, verdict="degraded", cause="production_differs", reason=reason, breach="production")
    if shifted is not None:
        was = f"the median rose from {milliseconds(shifted.reference_seconds)} to {milliseconds(shifted.level_seconds)}"
        return replace(result, reason=f"{result.reason}; {was} at {clock(shifted.since)}, within its gate")
    return result
