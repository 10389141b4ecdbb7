"""The work in parts: what is measured, how much of it, and how a process of the pool does one part.

All rules see the same healthy series, as what a part draws depends on its scenario and its number alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from benchmarks.detection import harness, oracle, record, replayed, report
from benchmarks.detection.measure import Delays, Healthy
from benchmarks.detection.report import ORACLE, ORACLE_CLOSER
from benchmarks.detection.rules import EFFORT, RULES
from benchmarks.detection.series import BACKGROUNDS, FAULTS, HEALTHY, MONTH, REPLAYS

ORACLES: Final = {ORACLE: REPLAYS, ORACLE_CLOSER: (1 + harness.LOOKS) * REPLAYS}
SPREAD: Final = ", spread"
ORACLE_MONTHS: Final = 3.0  # healthy ones, for its threshold


class Size(NamedTuple):
    """How much to measure: model-months of each healthy series, cases of each fault, onsets in each recording."""

    months: float
    cases: int
    courses: int
    planted: int


QUICK: Final = Size(0.5, 100, 2, 50)
WHOLE: Final = Size(4, 300, 6, 100)


class Job(NamedTuple):
    """One rule on one course; ``part`` tells the courses of one scenario apart."""

    kind: str
    rule: str
    what: str
    part: int
    amount: float


def parts(rules: list[str], size: Size) -> Iterator[Job]:
    """The whole work in parts of some seconds to some minutes."""
    for name in rules:
        if name in ORACLES:
            yield from (Job("oracle", name, scenario.name, 0, size.cases) for scenario in BACKGROUNDS)
            continue
        effort = EFFORT.get(name, 1.0)
        months, cases = effort * size.months, round(effort * size.cases)
        courses = max(1, round(months))
        for scenario in HEALTHY:
            yield from (Job("healthy", name, scenario.name, part, months / courses) for part in range(courses))
        for scenario in BACKGROUNDS:
            courses = min(size.courses, max(1, cases // 50))
            for kind in report.AGES:
                yield from (Job(kind, name, scenario.name, part, cases / courses) for part in range(courses))
        for recording in record.load():
            yield from (Job("recorded", name, recording + way, 0, effort * size.planted) for way in ("", SPREAD))


def work(job: Job) -> dict[str, Healthy | Delays]:
    """What the job counted, by fault, or under ``""`` where there is none."""
    amount = round(job.amount)
    if job.kind == "oracle":
        return {
            fault.name: oracle.delays(scenario, fault, _seed(job), ORACLE_MONTHS, amount, ORACLES[job.rule])
            for scenario in BACKGROUNDS
            if scenario.name == job.what
            for fault in FAULTS
        }
    make = RULES[job.rule]
    if job.kind == "recorded":
        recorded = record.load()[job.what.removesuffix(SPREAD)]
        if job.what.endswith(SPREAD):
            recorded = replayed.spread(recorded, _seed(job))
        return {
            "": replayed.healthy(make, recorded),
            **replayed.planted(make, recorded, _seed(job), max(5, amount)),
        }
    (scenario,) = (one for one in HEALTHY if one.name == job.what)
    if job.kind == "healthy":
        return {"": harness.healthy(make, scenario, _seed(job), round(job.amount * MONTH))}
    measured = harness.mature if job.kind == "mature" else harness.young
    return {**measured(make, scenario, _seed(job), amount)}


def _seed(job: Job) -> list[int]:
    return [zlib.crc32(f"{job.kind} {job.what}".encode()), job.part]
