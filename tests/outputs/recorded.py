"""Hand-built history for the tests of the commands that show it: incidents, baselines and board readings."""

from __future__ import annotations

from pathlib import Path

import msgspec

from monitor.config import Model
from monitor.outputs.baselines import Holding
from monitor.records import (
    Baseline,
    BaselineRequest,
    Digest,
    Event,
    Failure,
    Identity,
    Incident,
    ModelState,
    Shifted,
    Unstable,
)
from tests.outputs.specimens import BOARD, FAILED, FALLBACK, NOW, READING, SIMULATOR, conv

HEXAGON = msgspec.structs.replace(SIMULATOR, target="hexagon", machine="aarch64", options={"htp_performance_mode": "x"})

DETECTED = Event(
    timestamp=NOW,
    level="error",
    event="fallback_detected",
    id="swift_f0-fallback-6921efc8",
    model="swift_f0",
    reason="3.9 % of the FLOPs run on the accelerator, the gate is 95 %",
    model_sha256="5f" * 32,
    cause="dynamic_shape",
    npu_flops_ratio=0.039,
    median_seconds=0.00824,
    cv_ratio=0.031,
    ops=FALLBACK.placement.ops if FALLBACK.placement else (),
    ops_omitted=71,
    samples="synthetic",
    runtime=SIMULATOR,
    board=BOARD,
    readings=READING,
)
CHANGED = msgspec.structs.replace(
    DETECTED,
    timestamp=NOW + 3600,
    level="warning",
    event="fallback_changed",
    reason="other ops fell back: 60 % of the FLOPs run on the accelerator, the gate is 95 %",
    cause="op_unsupported",
    npu_flops_ratio=0.6,
    ops=(conv(7, 0.4),),
    ops_omitted=0,
    runtime=msgspec.structs.replace(SIMULATOR, provider_version="2.8.0"),
    readings=None,
)
CLEARED = msgspec.structs.replace(
    DETECTED,
    timestamp=NOW + 7200,
    level="info",
    event="fallback_cleared",
    reason="all gates are met",
    cause=None,
    npu_flops_ratio=0.9997,
    ops=(conv(1, 0.0003),),
    ops_omitted=0,
    readings=None,
)
SLOW = Event(
    timestamp=NOW + 60,
    level="warning",
    event="latency_unstable",
    id="detector-unstable-6921f004",
    model="detector",
    reason="12 % of the replays are 3.1 times slower than the others; the placement is intact; the CPU is hot",
    model_sha256="a1" * 32,
    cause="slow_accelerator",
    npu_flops_ratio=1.0,
    median_seconds=0.0123,
    cv_ratio=0.52,
    slow_ratio=0.12,
    separation_ratio=3.1,
    baseline_seconds=0.0121,
    samples="files",
    runtime=HEXAGON,
    board=BOARD,
    readings=READING,
)
BROKEN = Event(
    timestamp=NOW + 90,
    level="error",
    event="check_failed",
    id="ppocr_det-check-6921f022",
    model="ppocr_det",
    reason="the probe did not answer in 30 s and was killed",
    board=BOARD,
    error=FAILED.error or Failure("internal", ""),
)
EVENTS = (DETECTED, SLOW, BROKEN, CHANGED, CLEARED)

DETECTOR = Model(
    name="detector",
    path=Path("/opt/models/the detector.onnx"),
    source=Path("/opt/models/src/detector.onnx"),
    samples=Path("/var/lib/npumon/samples/detector"),
    dims={"batch": 1},
    options={"soc_model": "60", "htp_performance_mode": "burst"},
    session={"intra_op_num_threads": 1, "enable_mem_pattern": False, "session.dynamic_block_base": "4"},
)

IDENTITY = Identity(
    "a1" * 32,
    "onnxruntime 1.32.0, QNNExecutionProvider 2.7.0, backend v2.51.0",
    "QCS6490",
    {"soc_model": "60", "htp_performance_mode": "burst"},
    "files",
)
PRESENT = Baseline(
    "1f3a9c2e",
    IDENTITY,
    NOW - 86400,
    medians=tuple(0.0158 + 0.0001 * number for number in range(10)),
    median_seconds=0.01625,
    npu_flops_ratio=0.98,
    cpu_ops=("pad_1", "pad_2"),
    comparison="backend v2.48.0 -> v2.51.0: median +31 %, 2 more ops on the CPU",
)
OLDER = Baseline(
    "77ab01cd",
    msgspec.structs.replace(IDENTITY, runtime="onnxruntime 1.32.0, QNNExecutionProvider 2.7.0, backend v2.48.0"),
    NOW - 30 * 86400,
    medians=tuple(0.0120 + 0.0001 * number for number in range(10)),
    median_seconds=0.01245,
    accepted=NOW - 29 * 86400,
    npu_flops_ratio=1.0,
)
LEARNING = msgspec.structs.replace(
    PRESENT, id="1f77e0aa", medians=(0.5, 0.52, 0.51), median_seconds=None, npu_flops_ratio=None, comparison=""
)
WAITING_STATE = ModelState(
    "detector",
    unstable=Unstable("detector-unstable-6921f004", NOW + 60, ratio=0.12, separation=3.1, band=(3, 5)),
    shifted=Shifted("detector-shifted-6921f100", NOW + 312, reference_seconds=0.01245, level_seconds=0.0163),
    digests=(Digest(NOW, 0.0163, 0.02, ()),),
    baselines=(PRESENT, OLDER),
)
FALLEN_STATE = ModelState("swift_f0", fallback=Incident("swift_f0-fallback-6921efc8", NOW, cause="dynamic_shape"))
WAITING = Holding(WAITING_STATE, 10, OLDER.id, (BaselineRequest("detector", "accept"),))
