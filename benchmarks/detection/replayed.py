"""The rules on recorded latencies: as they are, and with a fault multiplied in from a point on.

A recorded check has 60 replays: 30 are the check, the other 30 its one closer look. The checks were recorded a tenth of
a second apart, on a shared machine whose speed flips by 1.6x for seconds at a time. Checks a minute apart would meet
each flip once, so that the recording is also replayed :func:`spread`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from benchmarks.detection.harness import More, Seconds, concluded
from benchmarks.detection.measure import Delays, Healthy
from benchmarks.detection.record import BUSY, PERIOD
from benchmarks.detection.rules import Rule
from benchmarks.detection.series import REPLAYS, Fault

PLANTED: Final = (Fault("3x in 10 %", 3.0, 0.1, 5), Fault("1.3x for good", 1.3, 1.0, 3))
EARLIEST: Final = 150  # checks
Checks = list[list[float]]


def spread(recorded: Checks, seed: Sequence[int]) -> Checks:
    """The checks in random order, those beside a periodic co-runner still where one would run."""
    order = np.arange(len(recorded))
    busy = order % PERIOD < BUSY
    random = np.random.default_rng(seed)
    for part in (busy, ~busy):
        order[part] = random.permutation(order[part])
    return [recorded[at] for at in order]


def healthy(make: Callable[[], Rule], recorded: Checks) -> Healthy:
    """What a new rule does on the recording as it is."""
    rule, result = make(), Healthy(checks=len(recorded))
    for row in recorded:
        event, alarm = concluded(rule, row[:REPLAYS], _rest(row))
        result.events += event
        result.alarmed += alarm
    return result


def planted(make: Callable[[], Rule], recorded: Checks, seed: Sequence[int], cases: int) -> dict[str, Delays]:
    """Up to ``cases`` onsets of each fault, at random places in the later part where the alarm is off."""
    random = np.random.default_rng(seed)
    found = {fault.name: Delays() for fault in PLANTED}
    latest = len(recorded) - max(fault.horizon for fault in PLANTED)
    onsets = np.bincount(random.integers(EARLIEST, latest, cases), minlength=latest).tolist()
    rule, alarm = make(), False
    for at, row in enumerate(recorded[:latest]):
        for _ in range(0 if alarm else onsets[at]):
            for fault in PLANTED:
                delay = _delay(copy.deepcopy(rule), recorded[at : at + fault.horizon], fault, random)
                found[fault.name].found[delay] += 1
        _, alarm = concluded(rule, row[:REPLAYS], _rest(row))
    return found


def _delay(rule: Rule, rows: Checks, fault: Fault, random: np.random.Generator) -> int | None:
    for number, row in enumerate(rows, 1):
        slow = random.random(len(row)) < fault.ratio
        faulty = np.where(slow, fault.factor * np.array(row), row).tolist()
        if concluded(rule, faulty[:REPLAYS], _rest(faulty))[0]:
            return number
    return None


def _rest(row: Seconds) -> More:
    """The replays beyond the first 30, 30 at a time."""
    chunks = iter([row[at : at + REPLAYS] for at in range(REPLAYS, len(row), REPLAYS)])
    return lambda: next(chunks, [])
