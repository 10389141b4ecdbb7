"""Records made by hand for the pure tests: the smallest evidence that shows one behaviour."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from monitor.records import (
    Board,
    CheckResult,
    Execution,
    Fault,
    Latency,
    Node,
    NodeCounts,
    OpShare,
    Placed,
    Placement,
    Processor,
    Rejection,
    Runtime,
    Samples,
    SessionFacts,
    Study,
    Tensor,
)

BOARD = Board(hostname="board", machine="aarch64", kernel="6.6")
RUNTIME = Runtime("qnn", "simulator", "1.32.0", "2.7.0", "v2.51.0")


def node(name: str, op_type: str, inputs: str, outputs: str, scope: str = "", **attributes: Any) -> Node:
    """A node; its values separated by spaces."""
    return Node(name, op_type, "", tuple(inputs.split()), tuple(outputs.split()), scope, attributes)


def study(
    nodes: Iterable[Node],
    partitioned: Iterable[Node],
    constants: str = "",
    inputs: str = "x",
    outputs: str = "y",
    runs: tuple[tuple[Execution, ...], ...] = (),
) -> Study:
    """A study of these two graphs."""
    return Study(
        model_sha256="0" * 64,
        dims={},
        samples="synthetic",
        assumed={},
        nodes=tuple(nodes),
        runs=runs,
        partitioned=tuple(partitioned),
        constants=tuple(constants.split()),
        inputs=tuple(inputs.split()),
        outputs=tuple(outputs.split()),
        onnxruntime="1.32.0",
    )


def placed(name: str, op_type: str, processor: Processor = "accelerator", unit: int = 0) -> Placed:
    """A placed node."""
    return Placed(name, op_type, "", processor, unit)


def facts(
    *placement: Placed,
    rejections: tuple[Rejection, ...] = (),
    faults: tuple[Fault, ...] = (),
    inputs: tuple[Tensor, ...] = (),
    edges: tuple[str, ...] = (),
) -> SessionFacts:
    """A session with this placement."""
    return SessionFacts(
        model_sha256="0" * 64,
        inputs=inputs,
        runtime=RUNTIME,
        placement=placement,
        rejections=rejections,
        faults=faults,
        samples=Samples("synthetic", 0),
        create_seconds=0.1,
        edges=edges,
    )


def op(name: str, flops_ratio: float, reason: str = "why", time: float | None = None) -> OpShare:
    """An op that did not run on the accelerator."""
    return OpShare(name, "Conv", flops_ratio, time, reason, "what to do")


def placement(
    share: float | None, *ops: OpShare, accelerator: int = 9, cpu: int | None = None, **fields: Any
) -> Placement:
    """A conclusion with this share."""
    return Placement(
        **{
            "npu_flops_ratio": share,
            "npu_flops_ratio_range": None,
            "npu_time_ratio": None,
            "unattributed_flops_ratio": None if share is None else 0.0,
            "total_flops": 1000,
            "nodes": NodeCounts(accelerator, len(ops) if cpu is None else cpu, 0),
            "partitions": 1,
            "ops": ops,
            "fallback_flops": {},
            **fields,
        }
    )


def latency(median: float = 0.01, cv: float = 0.02) -> Latency:
    """Latency signals."""
    return Latency(median, cv, (median, median), ())


def result(**fields: Any) -> CheckResult:
    """One check."""
    return CheckResult(
        **{
            "model": "m",
            "timestamp": 1_700_000_000.0,
            "duration_seconds": 1.0,
            "verdict": "healthy",
            "reason": "because",
            "model_sha256": "0" * 64,
            "runtime": RUNTIME,
            "samples": Samples("synthetic", 0),
            **fields,
        }
    )
