"""What a soak keeps of each check, and what it concludes from all of them.

Apart from the records of a check: a soak asks what no single check can, whether something changes over hours.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from monitor.records.board import Board
from monitor.records.concluded import OpShare
from monitor.records.events import Event
from monitor.records.measured import Runtime, Samples
from monitor.records.vocabulary import Target, Verdict

FindingKind = Literal["verdict", "failures", "drift", "memory", "placement"]
FINDINGS: tuple[FindingKind, ...] = ("verdict", "failures", "placement", "drift", "memory")


class Subject(Struct, frozen=True):
    """What a soak is of: it may only go on with the same. ``models`` by name: settings as texts, and file hashes."""

    provider: str
    onnxruntime: str
    provider_version: str
    pace_seconds: float
    models: dict[str, dict[str, str]]


class Session(Struct, frozen=True):
    """One stretch of a soak without an interruption. ``boot`` names the start of the kernel; empty if not told.

    ``started`` is UTC seconds; ``elapsed`` what had been measured before, in seconds.
    """

    number: int
    started: float
    elapsed: float
    boot: str
    board: Board


class Moment(Struct, frozen=True):
    """One check, as much of it as is looked at over time. ``elapsed`` is the soak's own time at its end, in seconds.

    ``low_seconds`` and ``high_seconds`` are the tenth and ninetieth percentile of its replays, ``stalls`` how many of
    them took at least 4/3 of the fast mode. ``probe`` names the process that measured. ``celsius`` by zone;
    ``clocks`` the current frequency as a share of the highest, by kind (``cpu``: the fastest policy; ``npu``:
    the slowest of the accelerator's and memory's devices). ``placed`` numbers the distinct contents.
    """

    session: int
    timestamp: float
    elapsed: float
    verdict: Verdict
    placed: int
    failure: str = ""
    median_seconds: float | None = None
    low_seconds: float | None = None
    high_seconds: float | None = None
    replays: int = 0
    stalls: int = 0
    slowest_seconds: float | None = None
    rss_bytes: int | None = None
    probe: int = 0
    celsius: dict[str, float] = {}
    clocks: dict[str, float] = {}


class Place(Struct, frozen=True):
    """A distinct content of checks: model bytes, placement, runtime. ``ops`` are those on the CPU, costliest first."""

    model_sha256: str | None
    npu_flops_ratio: float | None
    nodes_cpu: int | None
    fallback_flops: dict[str, float]
    ops: tuple[OpShare, ...]
    reason: str
    runtime: Runtime | None
    samples: Samples | None
    total_flops: int | None = None
    partitions: int | None = None


class Span(Struct, frozen=True):
    """A stretch of time in which a model's work was placed alike. Times are the soak's own."""

    start: float
    end: float
    place: Place
    change: str = ""


class Drift(Struct, frozen=True):
    """How far the median moved over the run, as a ratio of its level, with its interval; ``None``: cannot be told.

    ``within_ratio`` is by how much tenths of the run differ at most: a median that wanders little has not drifted,
    whatever can be told of its slope.
    """

    ratio: float | None
    within_ratio: float | None = None
    low: float | None = None
    high: float | None = None
    effective: float | None = None
    found: bool = False
    why: str = ""


class Heat(Struct, frozen=True):
    """Whether latency follows the temperature of a zone (Spearman's rank correlation, with its interval)."""

    zone: str
    rho: float | None
    low: float | None = None
    high: float | None = None
    effective: float | None = None
    coolest_celsius: float | None = None
    hottest_celsius: float | None = None
    found: bool = False


class Growth(Struct, frozen=True):
    """Resident memory of the probes: growth per check with its interval, each probe's first part left out.

    ``total_bytes`` is the growth over the checks that were looked at, were they one probe's; ``within_bytes`` by how
    much tenths of one probe's life differ at most.
    """

    bytes_per_check: float | None
    within_bytes: float | None = None
    low: float | None = None
    high: float | None = None
    total_bytes: float | None = None
    level_bytes: float | None = None
    peak_bytes: int | None = None
    checks: int = 0
    effective: float | None = None
    found: bool = False
    why: str = ""


class Stalls(Struct, frozen=True):
    """Replays that took at least 4/3 of their check's fast mode."""

    count: int
    replays: int
    slowest_seconds: float | None = None
    slowest_ratio: float | None = None


class Histogram(Struct, frozen=True):
    """Replays by latency, as shares of each part: the first and the last quarter. Edges in seconds, one more of them.

    What lies beyond the edges is counted in the outermost bins.
    """

    edges: tuple[float, ...]
    first: tuple[float, ...]
    last: tuple[float, ...]


class Gap(Struct, frozen=True):
    """An interruption: nothing was measured from ``since`` to ``until`` (UTC). ``elapsed`` is where in the soak."""

    elapsed: float
    since: float
    until: float
    rebooted: bool


class Finding(Struct, frozen=True):
    """Something that a release should not go out with, in one sentence with its figures."""

    kind: FindingKind
    text: str


class ModelSoak(Struct, frozen=True):
    """All that is concluded of one model. ``verdict`` is on the whole soak; ``verdicts`` count its checks'."""

    model: str
    verdict: Verdict
    reason: str
    checks: int
    failed: int
    verdicts: dict[str, int]
    findings: tuple[Finding, ...]
    median_seconds: float | None
    drift: Drift
    heat: tuple[Heat, ...]
    memory: Growth
    stalls: Stalls
    spans: tuple[Span, ...]
    failures: dict[str, int] = {}
    events: tuple[Event, ...] = ()
    histogram: Histogram | None = None


class SoakResult(Struct, frozen=True):
    """A whole soak, or as much of it as there is. Times in seconds, ``started`` and ``ended`` UTC."""

    subject: Subject
    wanted_seconds: float
    measured_seconds: float
    started: float
    ended: float
    sessions: tuple[Session, ...]
    gaps: tuple[Gap, ...]
    models: tuple[ModelSoak, ...]
    target: Target | None = None

    @property
    def complete(self) -> bool:
        return self.measured_seconds >= self.wanted_seconds


class Side(Struct, frozen=True):
    """One of two soaks that are compared, of one model."""

    median_seconds: float | None
    checks: int
    npu_flops_ratio: float | None
    rss_bytes: float | None
    runtime: Runtime | None
    findings: tuple[str, ...]


class Compared(Struct, frozen=True):
    """One model in two soaks. ``ratio`` is B's median over A's with its interval, ``p`` of the permutation test.

    ``cliffs_delta`` is -1 to 1: how much more often a check of B is slower than one of A than the reverse.
    ``worse`` says in which respects B is worse beyond its bound; ``why`` why it cannot be told whether its latency is;
    ``notes`` what else differs.
    """

    model: str
    a: Side | None
    b: Side | None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    cliffs_delta: float | None = None
    rss_ratio: float | None = None
    new_ops: dict[str, float] = {}
    worse: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    why: str = ""
