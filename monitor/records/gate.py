"""What a gate over a fleet reads and what it decides: one record for a model on a board, one for each criterion.

Apart from the records of a check, because they come from elsewhere: from what a Prometheus remembers of many boards.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Outcome = Literal["pass", "fail", "unmeasured", "not_asked"]
CriterionName = Literal["boards", "soak", "healthy", "cohorts", "ops"]
CRITERIA: tuple[CriterionName, ...] = ("boards", "soak", "healthy", "cohorts", "ops")
Why = Literal[
    "silent",  # does not answer at the end of the window
    "stale",  # answers, but the last check is too long ago
    "unknown",  # the last check could not measure
    "not_on_hardware",  # a simulator, or a machine without the accelerator
    "model_missing",  # answers, and does not watch this model
]


class Kind(Struct, frozen=True, order=True):
    """What has to be equal for boards to be compared at all: hardware, and the kind of inputs. Empty: not told."""

    soc: str = ""
    machine: str = ""
    samples: str = ""


class Version(Struct, frozen=True, order=True):
    """What a rollout changes: model file, runtime, provider, and its backend (the SDK). Empty: not told."""

    sha256: str = ""
    onnxruntime: str = ""
    provider: str = ""
    provider_version: str = ""
    backend_version: str = ""


class Seen(Struct, frozen=True):
    """What was measured of one model on one board, in the version that it has last.

    ``span_seconds`` is from when this version was first seen in the window to the window's end. Of it the model was
    healthy, or degraded or in fallback, for so long; the rest was not measured. ``median_seconds`` is the median over
    that time of the checks' medians, ``fallback_flops`` the largest share of each op type that fell back.
    Both are ``None`` where they were not measured.
    """

    kind: Kind
    version: Version
    span_seconds: float
    healthy_seconds: float = 0.0
    unhealthy_seconds: float = 0.0
    median_seconds: float | None = None
    fallback_flops: dict[str, float] | None = None


class Watched(Struct, frozen=True):
    """One model on one board. ``seen`` is ``None`` if nothing was measured of it on hardware in the window.

    ``why`` says why it does not count as measured at the window's end; ``None`` if it does.
    """

    board: str
    model: str
    seen: Seen | None = None
    why: Why | None = None


class Fleet(Struct, frozen=True):
    """Boards that are judged, or that others are held against. ``expected`` is how many there should be."""

    boards: tuple[str, ...]
    watched: tuple[Watched, ...]
    expected: int


class Bounds(Struct, frozen=True):
    """What is asked. Shares are 0 to 1, ``slower`` is a factor, times are seconds."""

    window_seconds: float
    soak_seconds: float
    share_reporting: float
    share_healthy: float
    slower: float
    op_share: float


class Cohort(Struct, frozen=True):
    """Boards with one model, SoC and version, next to all baseline boards with this model and SoC.

    ``unhealthy`` boards were not healthy for too much of their time; medians are those of the boards' medians.
    ``worse`` says in which of its signals the cohort is worse for sure. ``outcome`` is ``not_asked`` where there are
    too few boards to compare.
    """

    model: str
    kind: Kind
    version: Version
    outcome: Outcome
    boards: int
    unhealthy: int
    median_seconds: float | None
    baseline_boards: int
    baseline_unhealthy: int
    baseline_median_seconds: float | None
    worse: tuple[Literal["unhealthy", "slower"], ...] = ()


class NewOp(Struct, frozen=True):
    """An op type that falls back on ``boards`` of ``of`` boards, and less or not at all on the baseline's boards.

    ``flops_ratio`` is its largest share of an inference's FLOPs, ``baseline_flops_ratio`` the baseline's.
    """

    model: str
    kind: Kind
    op_type: str
    flops_ratio: float
    baseline_flops_ratio: float
    boards: int
    of: int
    counts: bool


class Criterion(Struct, frozen=True):
    """One criterion for one model. ``measured`` and ``bound`` are in the unit of the criterion; ``reason`` says it all.

    ``boards`` are those that met it or were compared, of ``expected``.
    """

    name: CriterionName
    model: str
    outcome: Outcome
    reason: str
    bound: float
    measured: float | None = None
    boards: int = 0
    expected: int = 0
    cohorts: tuple[Cohort, ...] = ()
    ops: tuple[NewOp, ...] = ()


class Unmeasured(Struct, frozen=True):
    """A board that does not count as measured for a model, and why."""

    board: str
    model: str
    why: Why


class GateResult(Struct, frozen=True):
    """The verdict over a fleet, with all that led to it. ``timestamp`` is the window's end, UTC seconds."""

    timestamp: float
    outcome: Outcome
    bounds: Bounds
    criteria: tuple[Criterion, ...]
    unmeasured: tuple[Unmeasured, ...]
    expected: int
    baseline: bool
