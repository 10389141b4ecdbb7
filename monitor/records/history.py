"""What is remembered of a model's latency: the recent checks, and the baselines that they are held against."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Round(Struct, frozen=True, array_like=True):
    """Replays that ran back to back, and how many were slow, by bins of how slow they were (see ``analysis.slow``)."""

    replays: int
    slow: dict[int, int] = {}


class Digest(Struct, frozen=True, array_like=True):
    """One check as the latency analysis remembers it; ``spread_ratio`` is the robust CV.

    It has more than one round if the first was too odd to be healthy and too short to say so.
    """

    timestamp: float
    median_seconds: float
    spread_ratio: float
    rounds: tuple[Round, ...]


class Rates(Struct, frozen=True):
    """How often replays of healthy checks are slow: sums over ``rounds``; by bin of counts, by band of squared counts.

    Fractions, because what is old is forgotten little by little.
    """

    rounds: float = 0.0
    replays: float = 0.0
    counts: tuple[float, ...] = ()
    squares: tuple[float, ...] = ()


class Identity(Struct, frozen=True):
    """What a baseline holds for. If any of these differs, it is another baseline."""

    model_sha256: str
    runtime: str
    soc: str | None = None
    settings: dict[str, str] = {}
    samples: Literal["files", "synthetic"] | None = None


class Baseline(Struct, frozen=True):
    """What is normal for a model under one identity.

    ``medians`` are those of its first healthy checks. ``median_seconds`` and ``accepted`` (UTC seconds) are set once it
    counts as normal; a baseline that was learned but is worse than the one before waits for ``npumon baseline accept``.
    ``comparison`` holds it against the one before, in words.
    """

    id: str
    identity: Identity
    since: float
    medians: tuple[float, ...] = ()
    median_seconds: float | None = None
    accepted: float | None = None
    npu_flops_ratio: float | None = None
    cpu_ops: tuple[str, ...] = ()
    rates: Rates = Rates()
    comparison: str = ""


class BaselineRequest(Struct, frozen=True):
    """What somebody asked of a model's baselines; the daemon does it at the model's next check.

    Without ``baseline``, its id, ``accept`` means the present level and ``forget`` all of them.
    """

    model: str
    action: Literal["accept", "forget"]
    baseline: str | None = None
