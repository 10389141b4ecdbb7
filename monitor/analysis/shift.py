"""The incident of a median that left its level: beyond its gate, or a step that stays within it."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from monitor.analysis import level
from monitor.analysis.incidents import Teller
from monitor.analysis.verdict import milliseconds
from monitor.analysis.words import beyond_gate, clock, explained
from monitor.records import CheckResult, Digest, Shifted

TOLD_AGAIN = 1.1
"""A shifted level that rose this much further is told again."""


def follow(
    open_: Shifted | None,
    digests: tuple[Digest, ...],
    limit: float | None,
    baseline: float | None,
    result: CheckResult,
    teller: Teller,
) -> Shifted | None:
    """The open incident after ``result``, whose digest is the last of ``digests``.

    ``limit`` is the median's gate and ``baseline`` what counts as normal, both in seconds.
    """
    medians = [one.median_seconds for one in digests]
    beyond = limit is not None and level.exceeds(medians, limit)
    recent = level.level(digests[-3:])
    if open_ is None:
        step = level.step(digests)
        if limit is not None and beyond:
            reference = baseline or (step.reference if step else limit)
            incident = Shifted(teller.id("shifted"), result.timestamp, (), "slow_accelerator", reference, recent, True)
            reason = f"{beyond_gate(recent, limit)}; {_how(step, digests, baseline)}"
        elif step is not None:
            name = teller.id("shifted")
            incident = Shifted(name, result.timestamp, (), "slow_accelerator", step.reference, step.level)
            reason = f"{_how(step, digests, baseline)}, within its gate"
        else:
            return None
        teller.tell("latency_shifted", incident.id, explained(reason, result), "slow_accelerator")
        return incident
    held = limit is not None and (beyond or (open_.gated and not level.is_back(medians, limit)))
    middle = (open_.reference_seconds * open_.level_seconds) ** 0.5
    back = not held and level.is_back(medians, middle / level.RELIEF)
    if teller.ends("shifted", back):
        teller.tell("latency_recovered", open_.id, f"the median is back at {milliseconds(recent)}", "slow_accelerator")
        return None
    if limit is not None and beyond and not open_.gated:
        teller.tell("latency_shifted", open_.id, explained(beyond_gate(recent, limit), result), "slow_accelerator")
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
        teller.tell("latency_shifted", open_.id, explained(further, result), "slow_accelerator")
        return replace(open_, level_seconds=now)
    return replace(open_, gated=False)


def _how(step: level.Step | None, digests: Sequence[Digest], baseline: float | None) -> str:
    if step is not None:
        return f"it stepped from {milliseconds(step.reference)} to {milliseconds(step.level)} at {clock(step.since)}"
    if baseline is None:
        return "no earlier level is known"
    if len(digests) < level.REFERENCE:  # after a restart or an update nobody has seen how it came there
        return f"the baseline is {milliseconds(baseline)}"
    return f"it drifted there from {milliseconds(baseline)}"
