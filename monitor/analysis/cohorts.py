"""Boards of one kind held against a baseline's: how many are unhealthy, how slow they are, which ops they lost.

Boards of a cohort have the same hardware and software, so that they are a sample of what this version does there. The
tests assume nothing of how boards scatter: Wilson's interval for a share, order statistics for a median.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import comb, inf, sqrt
from statistics import median
from typing import Final, Literal, NamedTuple

from msgspec import Struct

from monitor.records.gate import Bounds, Cohort, Kind, NewOp, Outcome, Seen, Version, Watched

LEAST_BOARDS: Final = 5
"""Boards that a comparison takes on either side: of fewer, no bound of a median holds with 95 %."""

_Z: Final = 1.959964
"""Of the two-sided 95 % of the normal distribution."""


class Boards(Struct, frozen=True):
    """One model on the boards of a fleet, of which there should be ``expected``."""

    model: str
    watched: tuple[Watched, ...]
    expected: int

    @property
    def seen(self) -> list[Seen]:
        """What was measured, board by board."""
        return [one.seen for one in self.watched if one.seen]

    @property
    def unheard(self) -> int:
        """How many boards there are of which nothing at all was measured, so that they may be of any cohort."""
        return self.expected - len(self.seen)

    def of(self, kind: Kind, version: Version | None = None) -> list[Seen]:
        """The boards of this kind, of one version if given."""
        return [one for one in self.seen if one.kind == kind and version in (None, one.version)]


class _Sample(NamedTuple):
    """One side of a comparison: unhealthy boards of how many, and one latency for each board that counts."""

    unhealthy: int
    boards: int
    latencies: list[float]


def compare(boards: Boards, reference: Boards, cohort: tuple[Kind, Version], bounds: Bounds) -> Cohort:
    """A cohort against the baseline's boards of its kind, whatever their version."""
    kind, version = cohort
    mine, others = boards.of(kind, version), reference.of(kind)
    worse = _worse(_measured(mine, bounds, ill_is_slow=True), _measured(others, bounds, ill_is_slow=False), bounds)
    outcome: Outcome = "not_asked"
    if worse:
        outcome = "fail"
    elif min(len(mine) + boards.unheard, len(others) + reference.unheard) >= LEAST_BOARDS:
        gloomy, rosy = _gloomy(mine, boards.unheard, bounds), _rosy(others, reference.unheard, bounds)
        if _worse(gloomy, rosy, bounds):
            outcome = "unmeasured"
        elif min(len(mine), len(others)) >= LEAST_BOARDS:
            outcome = "pass"
    return Cohort(
        model=boards.model,
        kind=kind,
        version=version,
        outcome=outcome,
        boards=len(mine),
        unhealthy=sum(_ill(one, bounds) for one in mine),
        median_seconds=_median(mine),
        baseline_boards=len(others),
        baseline_unhealthy=sum(_ill(one, bounds) for one in others),
        baseline_median_seconds=_median(others),
        worse=worse,
    )


def _worse(mine: _Sample, others: _Sample, bounds: Bounds) -> tuple[Literal["unhealthy", "slower"], ...]:
    """The signals in which ``mine`` is worse, beyond chance; none where either side has too few boards."""
    found: list[Literal["unhealthy", "slower"]] = []
    if min(mine.boards, others.boards) >= LEAST_BOARDS:
        least, most = wilson(mine.unhealthy, mine.boards)[0], wilson(others.unhealthy, others.boards)[1]
        found += ["unhealthy"] if least > most else []
    if min(len(mine.latencies), len(others.latencies)) >= LEAST_BOARDS:
        slow, normal = median_bounds(mine.latencies)[0], median_bounds(others.latencies)[1]
        found += ["slower"] if slow > bounds.slower * normal else []
    return tuple(found)


def wilson(count: int, of: int) -> tuple[float, float]:
    """Wilson's 95 % interval for a share, of which ``count`` of ``of`` were seen; ``of`` is at least 1."""
    share, square = count / of, _Z * _Z
    centre = (share + square / (2 * of)) / (1 + square / of)
    half = _Z * sqrt(share * (1 - share) / of + square / (4 * of * of)) / (1 + square / of)
    return max(0.0, centre - half), min(1.0, centre + half)


def median_bounds(values: Sequence[float]) -> tuple[float, float]:
    """What the median is at least, and at most, each with 95 %, whatever the distribution; from 5 values on."""
    ordered = sorted(values)
    rank = _rank(len(ordered))
    return ordered[rank - 1], ordered[len(ordered) - rank]


@lru_cache(maxsize=256)
def _rank(count: int) -> int:
    """The largest rank whose order statistic is above the median with at most 5 %: a sign test turned around."""
    total, rank, limit = 0, 0, 2**count // 20
    while (total := total + comb(count, rank)) <= limit:
        rank += 1
    return rank


# ------------------------------------------------------------------------------------------------------ boards


def _ill(one: Seen, bounds: Bounds) -> bool:
    """Not healthy for too much of its time, for sure."""
    return one.unhealthy_seconds / one.span_seconds > 1 - bounds.share_healthy + 1e-9


def _well(one: Seen, bounds: Bounds) -> bool:
    """Healthy for enough of its time, for sure. A board can be neither: then too little was measured."""
    return one.healthy_seconds / one.span_seconds >= bounds.share_healthy - 1e-9


def _measured(boards: list[Seen], bounds: Bounds, ill_is_slow: bool) -> _Sample:
    """What the boards themselves show.

    Where ``ill_is_slow``, an unhealthy board is slower than all: one that fails fast must not speed its cohort up.
    """
    ill = [one for one in boards if _ill(one, bounds)]
    known = [one for one in boards if _ill(one, bounds) or _well(one, bounds)]
    times = [inf if ill_is_slow and _ill(one, bounds) else one.median_seconds for one in boards]
    return _Sample(len(ill), len(known), [time for time in times if time is not None])


def _gloomy(boards: list[Seen], unheard: int, bounds: Bounds) -> _Sample:
    """The cohort at its worst: what is not known of it is unhealthy and slow."""
    well = [one for one in boards if _well(one, bounds)]
    known = [one.median_seconds for one in well if one.median_seconds is not None]
    times = known + [inf] * (len(boards) - len(known))
    return _Sample(len(boards) - len(well) + unheard, len(boards) + unheard, times + [inf] * unheard)


def _rosy(boards: list[Seen], unheard: int, bounds: Bounds) -> _Sample:
    """The baseline at its best: what is not known of it is healthy and fast."""
    times = [one.median_seconds or 0.0 for one in boards]
    return _Sample(sum(_ill(one, bounds) for one in boards), len(boards) + unheard, times + [0.0] * unheard)


def _median(boards: list[Seen]) -> float | None:
    times = [one.median_seconds for one in boards if one.median_seconds is not None]
    return median(times) if times else None


# --------------------------------------------------------------------------------------------------------- ops


def new_ops(boards: Boards, reference: Boards, kind: Kind, bounds: Bounds) -> list[NewOp]:
    """Op types whose share exceeds what is normal on the baseline's boards of this kind by more than ``op_share``.

    One board may be broken by itself: an op counts if more boards have it than may be missing. Boards that are
    unhealthy without it say nothing about it, and are left out.
    """
    mine, compared = placed(boards.of(kind)), bool(placed(reference.of(kind)))
    found = []
    for op, normal in _ops(boards, reference, kind, bounds).items():
        shares = [_share(one, op) for one in mine]
        having = [share for share in shares if share > normal + bounds.op_share]
        of = len(having) + sum(
            share <= normal + bounds.op_share and not _ill(one, bounds) for one, share in zip(mine, shares, strict=True)
        )
        if having:
            counts = len(mine) >= LEAST_BOARDS and compared and _many(len(having), of, bounds)
            found.append(NewOp(boards.model, kind, op, max(having), normal, len(having), of, counts))
    return found


def undecided_ops(boards: Boards, reference: Boards, kind: Kind, bounds: Bounds) -> bool:
    """Whether some op would be new if all boards that nothing is known of had it, and none of the baseline's.

    Beside the former are the boards that are well.
    """
    mine, others = placed(boards.of(kind)), placed(reference.of(kind))
    if not others:
        return True
    unheard = boards.unheard + len(boards.of(kind)) - len(mine)
    without = reference.unheard + len(reference.of(kind)) - len(others)
    for op, normal in {**_ops(boards, reference, kind, bounds, without), "": 0.0}.items():
        having = [_share(one, op) > normal + bounds.op_share for one in mine]
        well = sum(not has and _well(one, bounds) for one, has in zip(mine, having, strict=True))
        if _many(sum(having) + unheard, sum(having) + well + unheard, bounds):
            return True
    return False


def placed(boards: list[Seen]) -> list[Seen]:
    """Those of which it is known where their ops ran."""
    return [one for one in boards if one.fallback_flops is not None]


def _ops(boards: Boards, reference: Boards, kind: Kind, bounds: Bounds, without: int = 0) -> dict[str, float]:
    """The op types that fell back on the boards, each with the share that is normal on the baseline's.

    Normal is the largest, but for the few boards, one at least, that may be broken by themselves: where an accelerator
    does not come up every op is on the CPU, and one such board must not make every op a normal one. ``without`` more
    boards of the baseline are taken to have no op on the CPU.
    """
    others = placed(reference.of(kind))
    found: dict[str, float] = {}
    for op in sorted({op for one in boards.of(kind) for op in one.fallback_flops or ()}):
        shares = sorted([*(_share(one, op) for one in others), *[0.0] * without], reverse=True)
        few = max(1, int((1 - bounds.share_reporting) * len(shares) + 1e-9))
        found[op] = shares[min(few, len(shares) - 1)] if shares else 0.0
    return found


def _share(one: Seen, op: str) -> float:
    return (one.fallback_flops or {}).get(op, 0.0)


def _many(having: int, of: int, bounds: Bounds) -> bool:
    return having > (1 - bounds.share_reporting) * of + 1e-9
