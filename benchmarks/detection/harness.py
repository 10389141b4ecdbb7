"""Runs one rule over one series: the loop that everything here is measured with.

A fault begins after a random number of healthy checks. The healthy course is run once, and forked for each fault: the
forks share the board's drift and what the rule has learned, but no replay.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from benchmarks.detection.measure import Delays, Healthy
from benchmarks.detection.rules import Rule
from benchmarks.detection.series import FAULTS, REPLAYS, Fault, Scenario, Track

LOOKS: Final = 4
MATURE: Final = 1500  # healthy checks
YOUNG: Final = 40
GAP: Final = (3, 12)  # checks between two forks
PATIENCE: Final = 60  # checks that a fork waits for a false alarm to go off, before it takes the rule as it is
BLOCK: Final = 1024

More = Callable[[], Sequence[float]]
Seconds = list[float]


def concluded(rule: Rule, seconds: Seconds, more: More) -> tuple[bool, bool]:
    """One check of ``rule``, with the closer looks it wants; ``more`` gives nothing once there is nothing."""
    wants: Callable[[Sequence[float]], bool] | None = getattr(rule, "wants_more", None)
    if wants is not None:
        for _ in range(LOOKS):
            if not wants(seconds):
                break
            further = more()
            if not further:
                break
            seconds = [*seconds, *further]
    return rule.observe(seconds)


def checks(
    track: Track, random: np.random.Generator, first: int, end: int, fault: Fault | None = None
) -> Iterator[tuple[Seconds, More]]:
    """The checks from ``first`` on: the replays, and how to draw further ones of the same check."""
    closer = random.spawn(1)[0]  # of its own, so that the series is the same whoever looks closer at it

    def further(at: int) -> More:
        return lambda: track.draw(closer, slice(at, at + 1), REPLAYS, fault)[0].tolist()

    block = 8 if fault else BLOCK
    for start in range(first, end, block):
        stop = min(end, start + block)
        rows = track.draw(random, slice(start, stop), REPLAYS, fault).tolist()
        for offset, row in enumerate(rows):
            yield row, further(start + offset)


def healthy(make: Callable[[], Rule], scenario: Scenario, seed: Sequence[int], count: int) -> Healthy:
    """What a new rule does in ``count`` healthy checks."""
    random = np.random.default_rng(seed)
    rule, result = make(), Healthy(checks=count)
    for seconds, more in checks(Track(scenario, random, count), random, 0, count):
        start = time.perf_counter()
        event, alarm = concluded(rule, seconds, more)
        result.seconds += time.perf_counter() - start
        result.events += event
        result.alarmed += alarm
    return result


def mature(make: Callable[[], Rule], scenario: Scenario, seed: Sequence[int], cases: int) -> dict[str, Delays]:
    """``cases`` onsets of every fault, after at least 1,500 healthy checks, along one healthy course."""
    random = np.random.default_rng(seed)
    gaps = random.spawn(1)[0]
    end = MATURE + cases * (GAP[1] + PATIENCE)
    longest = max(fault.horizon for fault in FAULTS)
    track = Track(scenario, random, end + longest)
    found = {fault.name: Delays() for fault in FAULTS}
    rule, at, due, left = make(), 0, MATURE, cases
    for at, (seconds, more) in enumerate(checks(track, random, 0, end)):
        _, alarm = concluded(rule, seconds, more)
        if at < due or (alarm and at < due + PATIENCE):
            continue
        for fault in FAULTS:
            found[fault.name].found[_delay(copy.deepcopy(rule), track, random, at + 1, fault)] += 1
        due = at + int(gaps.integers(*GAP))
        left -= 1
        if not left:
            break
    return found


def young(make: Callable[[], Rule], scenario: Scenario, seed: Sequence[int], cases: int) -> dict[str, Delays]:
    """``cases`` onsets of every fault some 40 checks after the very first, each case with a new rule and board."""
    random = np.random.default_rng(seed)
    longest = max(fault.horizon for fault in FAULTS)
    found = {fault.name: Delays() for fault in FAULTS}
    for _ in range(cases):
        track, rule = Track(scenario, random, YOUNG + PATIENCE + longest), make()
        for at, (seconds, more) in enumerate(checks(track, random, 0, YOUNG + PATIENCE), 1):
            _, alarm = concluded(rule, seconds, more)
            if at >= YOUNG and not alarm:
                break
        for fault in FAULTS:
            found[fault.name].found[_delay(copy.deepcopy(rule), track, random, at, fault)] += 1
    return found


def _delay(rule: Rule, track: Track, random: np.random.Generator, onset: int, fault: Fault) -> int | None:
    """The number of the first faulty check at which an event is raised."""
    faulty = checks(track, random.spawn(1)[0], onset, onset + fault.horizon, fault)
    for number, (seconds, more) in enumerate(faulty, 1):
        if concluded(rule, seconds, more)[0]:
            return number
    return None
