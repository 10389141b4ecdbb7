"""From what was known of a model and what a check found: the verdict with its memory, the next state, the events.

A pure function (state, evidence, gate) -> (state, verdict, events). ``analysis.verdict`` has judged what the audit
alone shows. Here the latency joins it, which only its history can judge: one stall is nothing, and a level is a level
only if it stays. The state is kept with the events in one transaction, so that a restart neither repeats nor loses a
line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from msgspec.structs import replace

from monitor.analysis import baselines, incidents, level, production, slow
from monitor.analysis.circumstances import circumstances
from monitor.analysis.incidents import Teller
from monitor.analysis.verdict import milliseconds
from monitor.config import Gate
from monitor.records import (
    BaselineRequest,
    Board,
    Calls,
    CheckResult,
    Digest,
    Event,
    Incident,
    Latency,
    ModelState,
    Production,
    Rates,
    Shifted,
    Standing,
    Unstable,
)

TOLD_AGAIN = 1.1
"""A shifted level that rose this much further is told again."""
SPREAD_CHECKS = 7
"""Most of so many checks must scatter beyond the gate: a co-runner spreads the replays of a few."""
SPREAD_REPLAYS = 30
"""Replays that tell a check's spread to a fifth. Where checks have fewer, more of them are looked at together."""
_CIRCUMSTANCES = 2  # in one sentence


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


def undecided(state: ModelState, latency: Latency, gate: Gate) -> bool:
    """Whether the replays so far are too odd to be healthy and too few to say so: more of them would tell."""
    if state.unstable is not None:
        return False
    digests = (*state.digests, slow.digest(latency, 0.0))[-slow.MOST :]
    found = slow.find(digests, _rates(state))
    return found is not None and slow.ALARM <= found.odds < slow.DOUBT and _matters(found, gate)


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
    unstable = _unstable(state, digests, limit, result, gate, teller)
    if state.unstable is not None and unstable is None:
        digests = tuple(replace(one, rounds=()) for one in digests)  # what is over must not raise it again
    shifted = state.shifted
    if shifted is None or unstable is None:  # with two modes a median goes to and fro between them
        shifted = _shifted(shifted, digests, limit, teller.baseline, result, teller)
    state = replace(state, digests=digests, unstable=unstable, shifted=shifted)
    # Held against an older baseline, a slower one is learned as well: it then waits to be accepted.
    steady = not (shifted and shifted.gated) or baseline is not baselines.present(state)
    if result.verdict == "healthy" and unstable is None and steady and not _beyond(latency, gate):
        state = baselines.learn(state, result, aged)
    return state


def _beyond(latency: Latency, gate: Gate) -> bool:
    """Whether a configured gate says that this is not normal, whatever was before."""
    return gate.median is not None and latency.median_seconds > gate.median


def _unstable(
    state: ModelState,
    digests: tuple[Digest, ...],
    limit: float | None,
    result: CheckResult,
    gate: Gate,
    teller: Teller,
) -> Unstable | None:
    open_, rates = state.unstable, _rates(state)
    if open_ is None:
        incident, reason = _found_unstable(digests, rates, gate, teller.id("unstable"), result.timestamp)
        if incident is not None:
            teller.tell("latency_unstable", incident.id, _explained(reason, result), "slow_accelerator")
        return incident
    # Where all replays are slow, they take the same time too: that is no calm.
    slower = [limit is not None and one.median_seconds > limit for one in digests]
    if open_.band is None:
        spreads = [math.inf if beyond else one.spread_ratio for one, beyond in zip(digests, slower, strict=True)]
        over = level.is_back(spreads, gate.cv)
    else:
        open_ = replace(open_, calm=0.0) if slower[-1] else slow.calm(open_, digests[-1], rates)
        over = open_.calm >= slow.CALM * (1 - 1e-9)
    if not teller.ends("unstable", over):
        return open_
    teller.tell("latency_recovered", open_.id, "the replays take the same time again", "slow_accelerator")
    return None


def _found_unstable(
    digests: tuple[Digest, ...], rates: Rates, gate: Gate, name: str, now: float
) -> tuple[Unstable | None, str]:
    found = slow.find(digests, rates)
    if found is not None and found.odds < slow.ALARM and _matters(found, gate):
        many = f"{_percent(found.ratio)} of the replays take {found.separation:.2g} times as long as the others"
        usual = f"in healthy checks {_percent(found.usual)} did" if rates.rounds else "more than stalls explain"
        return Unstable(
            name, now, (), "slow_accelerator", found.ratio, found.separation, found.band
        ), f"{many}, {usual}"
    spreads = _spreads(digests)
    if spreads and level.mostly_exceeds(spreads, gate.cv, len(spreads)):
        spread = f"the latency scatters by {_percent(digests[-1].spread_ratio)} without its outliers"
        return Unstable(name, now, (), "slow_accelerator"), f"{spread}, the gate is {_percent(gate.cv)}"
    return None, ""


def _spreads(digests: Sequence[Digest]) -> list[float]:
    """The spreads of the last checks: as many as have the replays of seven; none if all together have fewer than one.

    The spread of five replays is beyond a gate of 15 % in one check of ten where the model's is 10 %.
    """
    spreads: list[float] = []
    replays = 0
    for one in reversed(digests):
        if replays >= SPREAD_CHECKS * SPREAD_REPLAYS:
            break
        spreads.append(one.spread_ratio)
        # Beyond what one check of the usual length has, more replays make a check no more of a check.
        replays += min(sum(part.replays for part in one.rounds) or SPREAD_REPLAYS, SPREAD_REPLAYS)
    return spreads if replays >= SPREAD_REPLAYS else []


def _shifted(
    open_: Shifted | None,
    digests: tuple[Digest, ...],
    limit: float | None,
    baseline: float | None,
    result: CheckResult,
    teller: Teller,
) -> Shifted | None:
    medians = [one.median_seconds for one in digests]
    beyond = limit is not None and level.exceeds(medians, limit)
    recent = level.level(digests[-3:])
    if open_ is None:
        step = level.step(digests)
        if limit is not None and beyond:
            reference = baseline or (step.reference if step else limit)
            incident = Shifted(teller.id("shifted"), result.timestamp, (), "slow_accelerator", reference, recent, True)
            reason = f"{_over(recent, limit)}; {_how(step, digests, baseline)}"
        elif step is not None:
            name = teller.id("shifted")
            incident = Shifted(name, result.timestamp, (), "slow_accelerator", step.reference, step.level)
            reason = f"{_how(step, digests, baseline)}, within its gate"
        else:
            return None
        teller.tell("latency_shifted", incident.id, _explained(reason, result), "slow_accelerator")
        return incident
    held = limit is not None and (beyond or (open_.gated and not level.is_back(medians, limit)))
    middle = (open_.reference_seconds * open_.level_seconds) ** 0.5
    back = not held and level.is_back(medians, middle / level.RELIEF)
    if teller.ends("shifted", back):
        teller.tell("latency_recovered", open_.id, f"the median is back at {milliseconds(recent)}", "slow_accelerator")
        return None
    if limit is not None and beyond and not open_.gated:
        teller.tell("latency_shifted", open_.id, _explained(_over(recent, limit), result), "slow_accelerator")
    if held:
        open_ = replace(open_, gated=True, level_seconds=max(open_.level_seconds, recent))
    if back or (open_.gated and limit is not None and not teller.ends("gate", not held)):
        return open_
    longer = digests[-level.STRETCHES[-1].checks :]
    if not open_.gated and min(one.median_seconds for one in longer) > TOLD_AGAIN * open_.level_seconds:
        now = level.level(longer)
        further = (
            f"the median rose further, from {milliseconds(open_.level_seconds)} to {milliseconds(now)}, within its gate"
        )
        teller.tell("latency_shifted", open_.id, _explained(further, result), "slow_accelerator")
        return replace(open_, level_seconds=now)
    return replace(open_, gated=False)


def _beside(
    state: ModelState, result: CheckResult, latency: Latency, gate: Gate, teller: Teller
) -> tuple[ModelState, CheckResult]:
    """The state and the check with the application's own calls held against the replays."""
    if result.calls is None:
        return state, result
    calls = production.together(state.calls, result.calls)
    found = production.compare(calls, latency, result.samples.shapes if result.samples else ())
    if found is None:
        return replace(state, calls=calls), result
    result = replace(result, production=found)
    state = replace(state, calls=Calls())
    if found.covered_ratio is not None and found.covered_ratio < production.COVERED:
        return state, result
    teller.production = found
    ratios, open_ = (*state.ratios, found.ratio)[-production.AGREED :], state.differs
    if open_ is None and production.differs(ratios, gate.production):
        open_ = Incident(teller.id("production"), result.timestamp, (), "production_differs")
        teller.tell("latency_shifted", open_.id, _apart(found, gate), "production_differs")
    elif open_ is not None and teller.ends("production", production.agrees(ratios, gate.production)):
        teller.tell("latency_recovered", open_.id, "the application's calls take what the replays take", open_.cause)
        open_ = None
    return replace(state, ratios=ratios, differs=open_), result


def _apart(found: Production, gate: Gate) -> str:
    """How the application's calls differ from the replays, in words."""
    times, side = (found.ratio, "long") if found.ratio >= 1 else (1 / found.ratio, "short")
    replays = milliseconds(found.median_seconds / found.ratio)
    return (
        f"the application's own calls take {milliseconds(found.median_seconds)}, {times:.2g} times as {side} as the "
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
        over = _over(now, limit) if now > limit else f"the median of {milliseconds(now)} is not yet back for good"
        reason = _explained(f"{over}, since {_clock(shifted.since)}", result)
        return replace(result, verdict="degraded", cause="slow_accelerator", reason=reason, breach="median")
    if unstable is not None:
        many = f"{_percent(unstable.ratio)} of the replays took {unstable.separation:.2g} times as long"
        what = many if unstable.band else f"the latency scatters beyond its gate of {_percent(gate.cv)}"
        reason = _explained(f"{what}, since {_clock(unstable.since)}", result)
        return replace(result, verdict="degraded", cause="slow_accelerator", reason=reason, breach="cv")
    if state.differs is not None:
        apart = (
            _apart(result.production, gate) if result.production else "the application's own calls take another time"
        )
        reason = f"{apart}, since {_clock(state.differs.since)}"
        return replace(result, verdict="degraded", cause="production_differs", reason=reason, breach="production")
    if shifted is not None:
        was = f"the median rose from {milliseconds(shifted.reference_seconds)} to {milliseconds(shifted.level_seconds)}"
        return replace(result, reason=f"{result.reason}; {was} at {_clock(shifted.since)}, within its gate")
    return result


def _rates(state: ModelState) -> Rates:
    now = baselines.present(state)
    return now.rates if now else Rates()


def _matters(found: slow.Finding, gate: Gate) -> bool:
    """A slow mode that adds less than half of the spread that the gate allows is none of its business."""
    return found.cv >= gate.cv / 2


def _explained(what: str, result: CheckResult) -> str:
    """``what`` is wrong with the latency, that the placement is not to blame, and what the board has to say."""
    found = circumstances(result.before, result.after, result.latency)[:_CIRCUMSTANCES]
    intact = result.second_look or "with the placement intact"
    return "; ".join([f"{what}, {intact}" if not result.second_look else f"{what}; {intact}", *(c.text for c in found)])


def _how(step: level.Step | None, digests: Sequence[Digest], baseline: float | None) -> str:
    if step is not None:
        return f"it stepped from {milliseconds(step.reference)} to {milliseconds(step.level)} at {_clock(step.since)}"
    if baseline is None:
        return "no earlier level is known"
    if len(digests) < level.REFERENCE:  # after a restart or an update nobody has seen how it came there
        return f"the baseline is {milliseconds(baseline)}"
    return f"it drifted there from {milliseconds(baseline)}"


def _over(median: float, limit: float) -> str:
    return f"the median of {milliseconds(median)} exceeds its gate of {milliseconds(limit)}"


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.2g} %" if ratio < 0.1 else f"{100 * ratio:.0f} %"


def _clock(timestamp: float) -> str:
    return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d %H:%M} UTC"
