"""Hand-built records for the tests of the outputs: fallback, slow and healthy models, failures, the worst case.

They are shaped like what the simulator gives for published models. The outputs decide nothing, so that records made by
hand are their whole input; the real path from the execution provider to these records has tests of its own.
"""

from __future__ import annotations

from typing import get_args, get_type_hints

import msgspec

from monitor.records import (
    Agreement,
    Board,
    BoardReading,
    Cause,
    CheckResult,
    Clock,
    Event,
    Failure,
    FailureReason,
    Latency,
    NodeCounts,
    OpShare,
    OutputAgreement,
    Placement,
    RejectedSample,
    Runtime,
    Samples,
    Standing,
    Zone,
)

NOW = 1_763_829_000.0
BOARD = Board(hostname="board-17", machine="aarch64", kernel="6.6.52", soc="QCS6490")
SIMULATOR = Runtime(
    provider="QNNExecutionProvider",
    target="simulator",
    onnxruntime="1.32.0",
    provider_version="2.7.0",
    backend_version="v2.51.0",
    machine="x86_64",
    options={"soc_model": "60"},
)
READING = BoardReading(
    uptime=93_784.0,
    zones={"cpu": Zone(71.0, 85.0), "npu": Zone(90.14)},
    cpu_clocks={"policy0": Clock(1.8e9, 2.0e9, 2.84e9), "policy4": Clock(current=691_200_000.0)},
    device_clocks={"cdsp": Clock(highest=1.2e9)},
    stalled={"cpu": 12.5, "io": 0.0421},
    remoteprocs={"cdsp": "running"},
    nodes={"/dev/fastrpc-cdsp": True, "/dev/dma_heap/system": False},
)
SHAPE = OpShare(
    node="model/pad",
    op_type="Pad",
    flops_ratio=0.0,
    time_ratio=0.011,
    reason="the execution provider gave no reason",
    remedy="report it to the provider's maintainers with the audit",
)


def conv(number: int, share: float = 0.0505) -> OpShare:
    """One of the Convs of a model that silently fell back."""
    return OpShare(
        node=f"model/conv2d_{number}/Conv2D",
        op_type="Conv",
        flops_ratio=share,
        time_ratio=0.028,
        reason="Dynamic shape is not supported yet, for output: model/conv2d/Conv2D:0 (Cannot get shape)",
        remedy="fix the dimension `samples`, as the application does: --dim samples=16000",
    )


FALLBACK = CheckResult(
    model="swift_f0",
    timestamp=NOW - 42,
    duration_seconds=1.84,
    verdict="fallback",
    reason="3.9 % of the FLOPs ran on the NPU, at least 95 % should",
    cause="dynamic_shape",
    model_sha256="5f" * 32,
    placement=Placement(
        npu_flops_ratio=0.039,
        npu_flops_ratio_range=None,
        npu_time_ratio=0.484,
        unattributed_flops_ratio=0.0,
        total_flops=1_234_567_890,
        nodes=NodeCounts(accelerator=32, cpu=177, edge=0),
        partitions=4,
        ops=(*(conv(number) for number in range(18)), SHAPE),
        fallback_flops={"Conv": 0.909, "Relu": 0.052},
    ),
    latency=Latency(0.00824, 0.031, (0.0081, 0.00824, 0.0084), (0.012,), 0.025, 0.0, None, (), (3,)),
    samples=Samples("synthetic", 0),
    runtime=SIMULATOR,
)

HEALTHY = CheckResult(
    model="qdq_net",
    timestamp=NOW - 5,
    duration_seconds=0.71,
    verdict="healthy",
    reason="all gates are met",
    model_sha256="a1" * 32,
    placement=Placement(
        npu_flops_ratio=0.9997,
        npu_flops_ratio_range=None,
        npu_time_ratio=0.982,
        unattributed_flops_ratio=0.0,
        total_flops=2_360_000,
        nodes=NodeCounts(accelerator=20, cpu=0, edge=2),
        partitions=1,
        ops=(),
        fallback_flops={},
    ),
    latency=Latency(0.00052, 0.022, (0.00051, 0.00052, 0.00053), (), 0.021, 0.0, None, (), (3,)),
    samples=Samples(
        "files", 12, (RejectedSample("bad.npz", "dtype", "input `x` is float64, the model takes float32"),)
    ),
    runtime=SIMULATOR,
)

SLOW = msgspec.structs.replace(
    HEALTHY,
    model="detector",
    verdict="degraded",
    reason="10 % of the replays took 3 times as long; a fresh audit found the placement intact",
    cause="slow_accelerator",
    breach="cv",
    latency=Latency(
        median_seconds=0.0121,
        cv_ratio=0.41,
        replays_seconds=(*(0.012 + 0.00001 * number for number in range(18)), 0.0366, 0.037),
        warmups_seconds=(0.031,),
        robust_cv_ratio=0.012,
        slow_ratio=0.1,
        separation_ratio=3.04,
        disturbed=(3,),
        rounds=(10, 10),
    ),
    samples=Samples("files", 12),
    runtime=msgspec.structs.replace(SIMULATOR, target="hexagon", machine="aarch64"),
    before=READING,
    after=READING,
    second_look="a fresh audit found the placement intact",
)
SLOW_STANDING = Standing(
    baseline_seconds=0.01205,
    gate_npu_flops=0.95,
    gate_cv=0.15,
    gate_median_seconds=0.0150625,
    incidents={"fallback": False, "unstable": True, "shifted": False, "outputs": False, "failure": False},
)
"""What ``SLOW`` is measured against."""

FAILED = CheckResult(
    model="ppocr_det",
    timestamp=NOW - 3,
    duration_seconds=30.1,
    verdict="unknown",
    reason="the check could not measure",
    cause=None,
    error=Failure("probe_timeout", "the probe did not answer in 30 s and was killed", "raise models.timeout"),
)

CPU_ONLY = CheckResult(
    model="minilm",
    timestamp=NOW - 100,
    duration_seconds=2.2,
    verdict="fallback",
    reason="the accelerator did not come up: every node ran on the CPU",
    cause="accelerator_unavailable",
    model_sha256="0c" * 32,
    placement=Placement(
        npu_flops_ratio=None,
        npu_flops_ratio_range=None,
        npu_time_ratio=None,
        unattributed_flops_ratio=None,
        total_flops=None,
        nodes=NodeCounts(accelerator=0, cpu=129, edge=0),
        partitions=0,
        ops=(),
        fallback_flops={},
        notes=("the FLOPs of this model could not be established",),
    ),
    latency=Latency(float("nan"), float("inf"), (0.5, float("nan")), ()),
    samples=Samples("files", 3),
    runtime=Runtime("QNNExecutionProvider", "cpu", "1.32.0", "2.7.0"),
)

AWKWARD = 'a "quoted" \\ back\nslash <b>&amp;</b> \x1b[31m'
"""A name that has to be escaped everywhere: in exposition text, in HTML, at a terminal."""


WORST_STANDING = Standing(0.25, 0.95, 0.15, 0.3125, dict.fromkeys(SLOW_STANDING.incidents, True))
"""What the worst case is measured against: all that there is, and an incident of each kind."""


def worst_case(model: str) -> tuple[list[CheckResult], list[Event]]:
    """Checks and events of one model that, with ``WORST_STANDING``, need as many series as a model ever can."""
    op_types = {f"Op{number}": (200 - number) / 40_000 for number in range(200)}
    failures = [
        CheckResult(model, NOW, 0.1, "unknown", "failed", error=Failure(reason, "it failed"))
        for reason in get_args(FailureReason)
    ]
    rejected = tuple(
        RejectedSample(f"{number}.npz", reason, "does not fit")
        for number, reason in enumerate(get_args(get_type_hints(RejectedSample)["reason"]))
    )
    result = CheckResult(
        model=model,
        timestamp=NOW,
        duration_seconds=60.0,
        verdict="degraded",
        reason="everything at once",
        cause="input_dependent",
        model_sha256="ff" * 32,
        placement=Placement(
            npu_flops_ratio=0.4,
            npu_flops_ratio_range=(0.1, 0.7),
            npu_time_ratio=0.3,
            unattributed_flops_ratio=0.1,
            total_flops=10**15,
            nodes=NodeCounts(300, 4000, 12),
            partitions=77,
            ops=tuple(
                OpShare(f"node{number}", f"Op{number % 200}", 1e-4, None, "why " * 400, "what " * 400)
                for number in range(500)
            ),
            fallback_flops=op_types,
            unattributed={"Mystery": 0.1},
        ),
        agreement=Agreement(0.8, (OutputAgreement("y", "float", 0.8),), 3, ("note " * 400,)),
        latency=Latency(0.5, 0.9, tuple(0.00005 * 1.3**number for number in range(50)), (1.0,), 0.4, 0.3, 2.0, (7, 8)),
        samples=Samples("files", 1000, rejected),
        runtime=SIMULATOR,
        after=READING,
    )
    events = [
        Event(NOW, "error", "fallback_detected", f"id-{cause}", model, "it fell back", cause=cause)
        for cause in get_args(Cause)
    ]
    return [*failures, result], events
