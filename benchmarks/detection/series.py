"""Seeded synthetic latencies: what a healthy model does on a board, and what an intermittent or lasting slowdown adds.

All parts multiply, so that they are drawn as sums of logarithms: the level of the check (drift, warm-up, a load that
slows everything), the noise of the replay, stalls, and a co-runner that slows some of the replays. One check is one
minute. Where a part has a phase it is random, so that a baseline is learned at any point of a drift.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
MONTH: Final = 43_200  # checks of 60 s in 30 days
REPLAYS: Final = 30
BASE: Final = 0.010  # seconds
SLOW_NOISE: Final = 0.05  # of a replay that fell back
STALL: Final = (2.0, 10.0)
BURST: Final = (2, 5)  # replays in a row that one stall hits
CO_RUNNER: Final = (1.1, 1.35)
CO_RUNNER_SHARE: Final = (0.2, 0.5)
HOURLY: Final = 1.08
WARM_UP: Final = 30.0  # minutes, time constant
PHASES: Final = (60.0, 480.0)  # minutes of work, and of rest


class Scenario(NamedTuple):
    """A healthy model. Shares are per replay (of ``bursts``: per replay that begins one), amplitudes of the level."""

    name: str
    sigma: float = 0.04
    tail: float = 0.0
    stalls: float = 0.0
    bursts: float = 0.0
    co_runner: bool = False
    hourly: bool = False
    daily: float = 0.0
    six_hours: float = 0.0
    warm_up: float = 0.0


class Fault(NamedTuple):
    """From its onset on ``ratio`` of the replays take ``factor`` times as long; ``bound`` is in checks."""

    name: str
    factor: float
    ratio: float
    bound: int

    @property
    def horizon(self) -> int:
        """Checks after which it counts as not found at all."""
        return max(30, 2 * self.bound)


HEALTHY: Final = (
    Scenario("log-normal 3 %", sigma=0.03),
    Scenario("log-normal 4 %"),
    Scenario("log-normal 5 %", sigma=0.05),
    Scenario("exponential tails", sigma=0.03, tail=0.05),
    Scenario("stalls 0.1 %", stalls=0.001),
    Scenario("stalls 0.3 %", stalls=0.003),
    Scenario("stalls 1 %", stalls=0.01),
    Scenario("bursts of stalls", bursts=0.001),
    Scenario("co-runner", co_runner=True),
    Scenario("hourly load", hourly=True),
    Scenario("daily drift", daily=0.08),
    Scenario("6 h drift", six_hours=0.06),
    Scenario("warm-up", warm_up=0.12),
    Scenario(
        "all together",
        tail=0.02,
        stalls=0.003,
        bursts=0.0003,
        co_runner=True,
        hourly=True,
        daily=0.04,
        warm_up=0.06,
    ),
)
BACKGROUNDS: Final = tuple(
    scenario
    for scenario in HEALTHY
    if scenario.name
    in ("log-normal 4 %", "exponential tails", "stalls 0.1 %", "stalls 1 %", "co-runner", "daily drift")
)
FAULTS: Final = (
    *(Fault(f"3x in {ratio} %", 3.0, ratio / 100, 60) for ratio in (1, 2)),
    *(Fault(f"3x in {ratio} %", 3.0, ratio / 100, 5) for ratio in (5, 10, 20, 35, 50)),
    Fault("1.5x in 10 %", 1.5, 0.1, 15),
    Fault("1.3x for good", 1.3, 1.0, 3),
    Fault("1.15x for good", 1.15, 1.0, 30),
)


class Track:
    """One healthy course of ``checks`` checks: how fast the board is, and how busy, at each of them.

    ``level`` multiplies every replay of a check; ``share`` of its replays meet the co-runner. Both have one value a
    check. :meth:`draw` draws replays, as often as one likes: a second draw of the same check is its closer look.
    """

    def __init__(self, scenario: Scenario, random: np.random.Generator, checks: int) -> None:
        self.scenario = scenario
        self.level = np.ones(checks)
        self.share = np.zeros(checks)
        minutes = np.arange(checks, dtype=np.float64)
        if scenario.hourly:
            self.level[(minutes + random.integers(60)) % 60 < 10] *= HOURLY
        for amplitude, period in ((scenario.daily, 1440), (scenario.six_hours, 360)):
            if amplitude:
                self.level *= 1 + amplitude * np.sin(2 * np.pi * (minutes / period + random.random()))
        if scenario.warm_up:
            self.level *= 1 + scenario.warm_up * _warmth(random, checks)
        if scenario.co_runner:
            moved = np.arange(checks) + random.integers(20)
            shares = random.uniform(*CO_RUNNER_SHARE, checks // 20 + 2)
            self.share = np.where(moved % 20 < 2, shares[moved // 20], 0.0)

    def draw(
        self,
        random: np.random.Generator,
        checks: slice | npt.NDArray[np.intp],
        replays: int = REPLAYS,
        fault: Fault | None = None,
    ) -> Floats:
        """Seconds of each replay of these checks, of shape (checks, ``replays``)."""
        scenario, share = self.scenario, self.share[checks]
        shape = (len(share), replays)
        logs = random.standard_normal(shape)
        logs *= scenario.sigma
        if fault is not None:
            _fault(fault, random, logs)
        if scenario.tail:
            logs += np.log1p(random.exponential(scenario.tail, shape))
        if scenario.stalls:
            logs += _hits(random.random(shape) < scenario.stalls, random, STALL)
        if scenario.bursts:
            _burst(scenario.bursts, random, logs)
        if scenario.co_runner and share.any():
            logs += _hits(random.random(shape) < share[:, None], random, CO_RUNNER, logarithmic=False)
        logs += np.log(BASE * self.level[checks])[:, None]
        return np.exp(logs, out=logs)


def _warmth(random: np.random.Generator, checks: int) -> Floats:
    """Between 0 and 1: it approaches 1 while the board works and 0 while it rests, in phases of random length."""
    target = np.zeros(checks)
    at, works = 0, bool(random.integers(2))
    while at < checks:
        end = at + int(random.uniform(*PHASES))
        target[at:end] = works
        at, works = end, not works
    warmth, now = np.empty(checks), target[0]
    for index, goal in enumerate(target.tolist()):
        now += (goal - now) * -math.expm1(-1 / WARM_UP)
        warmth[index] = now
    return warmth


def _fault(fault: Fault, random: np.random.Generator, logs: Floats) -> None:
    """Slow down some replays, whose noise then is that of the slow way, or all, whose noise stays."""
    if fault.ratio == 1:
        logs += math.log(fault.factor)
    else:
        slow = random.random(logs.shape) < fault.ratio
        logs[slow] = math.log(fault.factor) + SLOW_NOISE * random.standard_normal(np.count_nonzero(slow))


def _hits(
    hit: npt.NDArray[np.bool_], random: np.random.Generator, factors: tuple[float, float], logarithmic: bool = True
) -> Floats:
    """The logarithms of factors drawn for those that are hit, 0 for the others."""
    logs = np.zeros(hit.shape)
    count = int(np.count_nonzero(hit))
    if logarithmic:
        logs[hit] = random.uniform(math.log(factors[0]), math.log(factors[1]), count)
    else:
        logs[hit] = np.log(random.uniform(*factors, count))
    return logs


def _burst(ratio: float, random: np.random.Generator, logs: Floats) -> None:
    """Stalls that hit several replays in a row, all by the same factor."""
    for row, first in zip(*np.nonzero(random.random(logs.shape) < ratio), strict=True):
        length = random.integers(BURST[0], BURST[1] + 1)
        logs[row, first : first + length] += random.uniform(math.log(STALL[0]), math.log(STALL[1]))
