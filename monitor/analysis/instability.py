"""The incident of a latency that is not one: some replays take another time than the others, or all scatter.

One odd check is nothing. It begins when the last checks together leave no doubt, and ends when they have been calm for
as long as the replays need to say so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec.structs import replace

from monitor.analysis import baselines, level, slow
from monitor.analysis.incidents import Teller
from monitor.analysis.words import explained, percent
from monitor.config import Gate
from monitor.records import CheckResult, Digest, Latency, ModelState, Rates, Unstable

SPREAD_CHECKS = 7
"""Most of so many checks must scatter beyond the gate: a co-runner spreads the replays of a few."""
SPREAD_REPLAYS = 30
"""Replays that tell a check's spread to a fifth. Where checks have fewer, more of them are looked at together."""


def undecided(state: ModelState, latency: Latency, gate: Gate) -> bool:
    """Whether the replays so far are too odd to be healthy and too few to say so: more of them would tell."""
    if state.unstable is not None:
        return False
    digests = (*state.digests, slow.digest(latency, 0.0))[-slow.MOST :]
    found = slow.find(digests, _rates(state))
    return found is not None and slow.ALARM <= found.odds < slow.DOUBT and _matters(found, gate)


def follow(
    state: ModelState,
    digests: tuple[Digest, ...],
    limit: float | None,
    result: CheckResult,
    gate: Gate,
    teller: Teller,
) -> Unstable | None:
    """The open incident after ``result``, whose digest is the last of ``digests``; ``limit`` is the median's gate."""
    open_, rates = state.unstable, _rates(state)
    if open_ is None:
        incident, reason = _found(digests, rates, gate, teller.id("unstable"), result.timestamp)
        if incident is not None:
            teller.tell("latency_unstable", incident.id, explained(reason, result), "slow_accelerator")
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


def _found(digests: tuple[Digest, ...], rates: Rates, gate: Gate, name: str, now: float) -> tuple[Unstable | None, str]:
    found = slow.find(digests, rates)
    if found is not None and found.odds < slow.ALARM and _matters(found, gate):
        many = f"{percent(found.ratio)} of the replays take {found.separation:.2g} times as long as the others"
        usual = f"in healthy checks {percent(found.usual)} did" if rates.rounds else "more than stalls explain"
        return Unstable(
            name, now, (), "slow_accelerator", found.ratio, found.separation, found.band
        ), f"{many}, {usual}"
    spreads = _spreads(digests)
    if spreads and level.mostly_exceeds(spreads, gate.cv, len(spreads)):
        spread = f"the latency scatters by {percent(digests[-1].spread_ratio)} without its outliers"
        return Unstable(name, now, (), "slow_accelerator"), f"{spread}, the gate is {percent(gate.cv)}"
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


def _rates(state: ModelState) -> Rates:
    now = baselines.present(state)
    return now.rates if now else Rates()


def _matters(found: slow.Finding, gate: Gate) -> bool:
    """A slow mode that adds less than half of the spread that the gate allows is none of its business."""
    return found.cv >= gate.cv / 2
