"""The limit of the information: a detector that is told everything but whether, and since when, the fault is there.

Page's CUSUM (E. S. Page, Continuous inspection schemes, Biometrika 41, 1954) on the log-likelihood ratio of each
replay, with the true healthy and faulty densities, the true level of the board at each moment, and the knowledge of
when the co-runner runs. For independent replays of known density no rule with as few false alarms has a shorter worst
mean delay (G. V. Moustakides, Optimal stopping times for detecting changes in distributions, Annals of Statistics 14,
1986); one that must learn all this, and look for ten faults instead of one, has less to go by.

Its threshold is simulated: the statistic's maxima between two returns to zero fall off as exp(-h), so that the level
that 10 a month exceed, plus ln 10, is exceeded about once a month.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

from benchmarks.detection import series
from benchmarks.detection.measure import Delays
from benchmarks.detection.series import BASE, MONTH, Fault, Floats, Scenario, Track

STEP: Final = 0.004  # of the logarithm
LOW, HIGH = -0.8, 5.2
CELLS: Final = round((HIGH - LOW) / STEP)
FLOOR: Final = 1e-15  # of the probability of a cell: no evidence is certain
ROUGH: Final = 10  # exceedances a month, enough to be counted
BLOCK: Final = 4096  # checks
COURSE: Final = 2880  # checks among which onsets lie: two days


def delays(scenario: Scenario, fault: Fault, seed: Sequence[int], months: float, cases: int, replays: int) -> Delays:
    """When the oracle finds ``cases`` onsets of ``fault``, with ``replays`` at each check."""
    random = np.random.default_rng(seed)
    ratios = _ratios(scenario, fault)
    threshold = _threshold(scenario, ratios, random, months, replays)
    track = Track(scenario, random, COURSE + fault.horizon)
    found: Counter[int | None] = Counter()
    for _ in range(cases):
        start = int(random.integers(COURSE))
        rows = np.arange(start, start + fault.horizon)
        path = _cusum(_evidence(track, rows, random, ratios, replays, fault))
        crossed = np.flatnonzero(path > threshold)
        found[int(crossed[0]) // replays + 1 if len(crossed) else None] += 1
    return Delays(found)


def _threshold(
    scenario: Scenario, ratios: tuple[Floats, Floats], random: np.random.Generator, months: float, replays: int
) -> float:
    """The level that healthy replays exceed once a month at most."""
    checks = round(months * MONTH)
    track = Track(scenario, random, checks)
    peaks: list[Floats] = []
    for start in range(0, checks, BLOCK):
        rows = np.arange(start, min(checks, start + BLOCK))
        path = _cusum(_evidence(track, rows, random, ratios, replays, None))
        begins = np.flatnonzero((path > 0) & np.concatenate(([True], path[:-1] == 0)))
        if len(begins):
            peaks.append(np.maximum.reduceat(path, begins))
    ordered = np.sort(np.concatenate([np.zeros(1), *peaks]))
    rank = math.ceil(ROUGH * months)
    return float(ordered[-rank] if rank <= len(ordered) else 0.0) + math.log(ROUGH)


def _cusum(evidence: Floats) -> Floats:
    """Page's statistic at each replay, from zero on."""
    walk = np.cumsum(evidence)
    return walk - np.minimum(np.minimum.accumulate(walk), 0.0)


def _evidence(
    track: Track,
    rows: np.ndarray[tuple[int], np.dtype[np.intp]],
    random: np.random.Generator,
    ratios: tuple[Floats, Floats],
    replays: int,
    fault: Fault | None,
) -> Floats:
    """The log-likelihood ratio of each replay, in order."""
    seconds = track.draw(random, rows, replays, fault)
    logs = np.log(seconds / (BASE * track.level[rows])[:, None])
    cells = np.clip(((logs - LOW) / STEP).astype(np.intp), 0, CELLS - 1)
    busy = track.share[rows] > 0
    return np.where(busy[:, None], ratios[1][cells], ratios[0][cells]).ravel()


# ------------------------------------------------------------------------------------------------- the densities


def _ratios(scenario: Scenario, fault: Fault) -> tuple[Floats, Floats]:
    """The logarithm of faulty over healthy by cell, without and with the co-runner. Bursts are not modelled."""
    plain = _normal(0.0, scenario.sigma)
    if fault.ratio == 1:
        faulty = _normal(math.log(fault.factor), scenario.sigma)
    else:
        faulty = (1 - fault.ratio) * plain + fault.ratio * _normal(math.log(fault.factor), series.SLOW_NOISE)
    shared = [_tail(scenario.tail), _uniform_log(scenario.stalls, series.STALL)]
    busy = _uniform(sum(series.CO_RUNNER_SHARE) / 2, series.CO_RUNNER)
    made = []
    for parts in (shared, [*shared, busy]):
        down, up = (_added(density, parts) for density in (plain, faulty))
        made.append(np.log(np.maximum(up, FLOOR)) - np.log(np.maximum(down, FLOOR)))
    return made[0], made[1]


def _added(density: Floats, parts: Sequence[Floats]) -> Floats:
    for part in parts:
        density = np.convolve(density, part)[:CELLS]
    return density


def _normal(mean: float, sigma: float) -> Floats:
    """Probabilities of the cells from ``LOW`` on."""
    edges = LOW + STEP * np.arange(CELLS + 1)
    return np.diff([0.5 * math.erfc((mean - edge) / sigma / math.sqrt(2)) for edge in edges])


def _tail(mean: float) -> Floats:
    """Probabilities of what an exponential tail adds to the logarithm, from 0 on, rounded to cells."""
    if not mean:
        return np.ones(1)
    edges = np.maximum(0.0, STEP * (np.arange(CELLS + 1) - 0.5))
    return np.diff(-np.expm1(-np.expm1(edges) / mean))


def _uniform_log(share: float, factors: tuple[float, float]) -> Floats:
    """The same for a factor, uniform in its logarithm, that meets ``share`` of the replays."""
    return _hit(share, np.linspace(math.log(factors[0]), math.log(factors[1]), 20_001))


def _uniform(share: float, factors: tuple[float, float]) -> Floats:
    """The same for a uniform factor."""
    return _hit(share, np.log(np.linspace(*factors, 20_001)))


def _hit(share: float, logs: Floats) -> Floats:
    counts = np.bincount(np.rint(logs / STEP).astype(np.intp)).astype(np.float64)
    density: Floats = share * counts / counts.sum()
    density[0] += 1 - share
    return density
