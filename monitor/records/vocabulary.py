"""The words that all records share: shapes, processors, verdicts, causes, targets, and why a measurement failed."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Shape = tuple[int, ...]
Processor = Literal["accelerator", "cpu"]
Verdict = Literal["healthy", "degraded", "fallback", "unknown"]
VERDICTS: tuple[Verdict, ...] = ("healthy", "degraded", "fallback", "unknown")
Cause = Literal[
    "op_unsupported",
    "dynamic_shape",
    "accelerator_unavailable",
    "context_mismatch",
    "input_dependent",
    "runtime_error",
    "slow_accelerator",
    "production_differs",
    "not_on_hardware",
]
LATENCY_CAUSES = frozenset[Cause]({"slow_accelerator", "production_differs"})
"""Causes that the latency tells of while the placement is intact."""
Target = Literal["hexagon", "simulator", "cpu"]
Postponed = Literal[
    "duty",  # the budget of accelerator time is spent
    "memory",  # all of the board's tasks wait for memory
    "heat",  # a zone is far beyond the temperature at which the kernel slows down
]
FailureReason = Literal[
    "model_missing",  # no file, or not readable
    "model_invalid",  # truncated, not ONNX, refused by the runtime
    "dims_unknown",  # a free dimension override that the model does not have
    "input_unusable",  # no sample fits, or an input that cannot be synthesized
    "provider_missing",  # the execution provider's package or library is not there
    "session_failed",  # the runtime refused to create the session
    "run_failed",  # an inference raised
    "provider_failed",  # the execution provider failed in an inference
    "engine_failed",  # the accelerator's engine failed; older versions of onnxruntime-qnn say so of a DSP's restart too
    "device_reset",  # the accelerator was restarted under the session
    "study_failed",  # the FLOPs of the model could not be established
    "probe_crashed",  # the child died
    "probe_timeout",  # the child did not answer in time and was killed
    "probe_protocol",  # the child answered with nonsense
    "internal",  # a defect of npumon itself
]

RUN_FAILURES: frozenset[FailureReason] = frozenset({"run_failed", "provider_failed", "engine_failed", "device_reset"})
"""The runtime raised while the model ran."""


class Failure(Struct, frozen=True):
    """Why a check measured nothing: a bounded reason, one sentence, what mends it, and the cause where it is known."""

    reason: FailureReason
    detail: str
    mend: str = ""
    cause: Cause | None = None
