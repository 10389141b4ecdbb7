"""What the analysis concluded from a check."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from monitor.records.board import BoardReading
from monitor.records.measured import OutputAgreement, Runtime, Samples
from monitor.records.production import Calls, Production
from monitor.records.vocabulary import Cause, Failure, Verdict


class OpShare(Struct, frozen=True):
    """One op that did not run on the accelerator, as events and reports show it.

    ``flops_ratio`` is 0 for data movement and ``None`` where the model's FLOPs are not known.
    """

    node: str
    op_type: str
    flops_ratio: float | None
    time_ratio: float | None
    reason: str
    remedy: str


class NodeCounts(Struct, frozen=True):
    """Placed nodes. ``edge`` are the graph-edge Q/DQ that stay on the CPU by design and raise nothing."""

    accelerator: int
    cpu: int
    edge: int


class Branch(Struct, frozen=True):
    """One way that an input-dependent ``If`` went, and the NPU-FLOP share of the samples that took it."""

    node: str
    branch: str
    samples: int
    npu_flops_ratio: float | None


class Placement(Struct, frozen=True):
    """Where the model's work ran, over the profiled samples. Ratios are ``None`` where FLOPs are not known.

    ``handoffs`` counts how often one profiled inference changed between accelerator and CPU, edge Q/DQ included.
    """

    npu_flops_ratio: float | None
    npu_flops_ratio_range: tuple[float, float] | None
    npu_time_ratio: float | None
    unattributed_flops_ratio: float | None
    total_flops: int | None
    nodes: NodeCounts
    partitions: int
    ops: tuple[OpShare, ...]
    fallback_flops: dict[str, float]
    unattributed: dict[str, float] = {}
    branches: tuple[Branch, ...] = ()
    notes: tuple[str, ...] = ()
    handoffs: int | None = None


class DeepOp(Struct, frozen=True):
    """What one op of the model costs on the accelerator. ``cycles`` are those of one inference.

    ``part``: ``op`` is a node of the model, and ``fused`` are others that run inside it; ``layout`` is the one sum of
    what was inserted (Transpose, Q/DQ, the copies at the partitions' edges); ``unjoined`` matched no node.
    """

    node: str
    op_type: str
    cycles: int
    cycles_ratio: float
    fused: tuple[str, ...] = ()
    part: Literal["op", "layout", "unjoined"] = "op"


class DeepProfile(Struct, frozen=True):
    """The accelerator's own profile, joined to the model's nodes; worst op first.

    The three ``*_ratio`` are shares of ``total_cycles`` and sum to 1. Seconds are those of one inference, and sum to
    ``inference_seconds`` where they are known; without ``wait_seconds`` the waiting is part of the accelerator's,
    without ``rpc_seconds`` the transport is part of the host's.
    """

    runs: int
    ops: tuple[DeepOp, ...] = ()
    total_cycles: int | None = None
    joined_ratio: float | None = None
    layout_ratio: float | None = None
    unjoined_ratio: float | None = None
    inference_seconds: float | None = None
    accelerator_seconds: float | None = None
    wait_seconds: float | None = None
    rpc_seconds: float | None = None
    host_seconds: float | None = None
    partial: str | None = None


class Latency(Struct, frozen=True):
    """The latency signals of one check, and the raw replays behind them.

    ``robust_cv_ratio`` is the spread without the outliers (1.4826 MAD over the median). ``slow_ratio`` is the share of
    the slow mode, 0 if one mode describes the replays, and ``separation_ratio`` how many times slower that mode is.
    ``disturbed`` are the replays during which the kernel took the CPU away from the probe. ``rounds`` are the lengths
    of the rounds that the replays ran in; one, unless the first called for more.
    """

    median_seconds: float
    cv_ratio: float
    replays_seconds: tuple[float, ...]
    warmups_seconds: tuple[float, ...]
    robust_cv_ratio: float | None = None
    slow_ratio: float | None = None
    separation_ratio: float | None = None
    disturbed: tuple[int, ...] | None = None
    rounds: tuple[int, ...] = ()


class Agreement(Struct, frozen=True):
    """Whether the accelerator computes what the CPU computes.

    ``error_ratio`` is the largest error of an output that can be judged; ``None`` if nothing was compared. ``notes``
    say what was not, or not in full, and why.
    """

    error_ratio: float | None
    outputs: tuple[OutputAgreement, ...] = ()
    samples: int = 0
    notes: tuple[str, ...] = ()


class CheckResult(Struct, frozen=True):
    """One check of one model: the single record that metrics, events, state, page and reports derive from.

    ``timestamp`` is when it ended, in UTC seconds since the epoch, ``duration_seconds`` its whole wall time. ``error``
    is set, and ``verdict`` is ``unknown``, if the check could not measure. ``breach`` names the latency gate that is
    exceeded. ``before`` and ``after`` are the board around the replays. ``settings`` shape the session besides the
    provider's options. ``second_look`` says what a fresh audit found that a latency alarm called for. ``calls`` are
    those that the application counted since the check before, ``production`` is how they compare, once they are enough.
    """

    model: str
    timestamp: float
    duration_seconds: float
    verdict: Verdict
    reason: str
    cause: Cause | None = None
    model_sha256: str | None = None
    placement: Placement | None = None
    latency: Latency | None = None
    samples: Samples | None = None
    runtime: Runtime | None = None
    error: Failure | None = None
    breach: Literal["median", "cv", "production"] | None = None
    notes: tuple[str, ...] = ()
    deep: DeepProfile | None = None
    agreement: Agreement | None = None
    settings: dict[str, str] = {}
    before: BoardReading | None = None
    after: BoardReading | None = None
    second_look: str = ""
    calls: Calls | None = None
    production: Production | None = None
