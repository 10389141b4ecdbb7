"""The plain records that cross npumon's boundaries, and nothing else.

Everything the probe measures, the analysis concludes and the outputs show is one of these. They carry no
behaviour beyond trivial derived values, import nothing of npumon, and survive msgpack (the pipe, the state) and
JSON unchanged, so that a recorded run can be replayed through the analysis in a test, and metrics, events and
reports cannot disagree: all three read the same :class:`CheckResult`.

Units: seconds, FLOPs (1 MAC = 2 FLOPs), ratios 0-1. ``None`` means "not measured", never zero.
"""

from __future__ import annotations

from monitor.records.board import RUNNING, Board, BoardReading, Circumstance, Clock, Zone
from monitor.records.concluded import (
    Agreement,
    Branch,
    CheckResult,
    DeepOp,
    DeepProfile,
    Latency,
    NodeCounts,
    OpShare,
    Placement,
)
from monitor.records.drawn import Cell, Forecast, Lane, Preflight, Strip
from monitor.records.events import Event, EventName, Incident, Level, ModelState, Relapse, Shifted, Standing, Unstable
from monitor.records.graphs import Execution, Node, Study
from monitor.records.history import Baseline, BaselineRequest, Digest, Identity, Rates, Round
from monitor.records.measured import (
    Comparison,
    DeepReading,
    DeepRow,
    DeepTimes,
    Fault,
    OutputAgreement,
    Placed,
    Profile,
    RejectedSample,
    Rejection,
    RejectionKind,
    Replays,
    Runtime,
    Samples,
    SessionFacts,
    Span,
    Tensor,
)
from monitor.records.production import Calls, Ledger, Production
from monitor.records.vocabulary import (
    LATENCY_CAUSES,
    RUN_FAILURES,
    VERDICTS,
    Cause,
    Failure,
    FailureReason,
    Postponed,
    Processor,
    Shape,
    Target,
    Verdict,
)

__all__ = [
    "LATENCY_CAUSES",
    "RUNNING",
    "RUN_FAILURES",
    "VERDICTS",
    "Agreement",
    "Baseline",
    "BaselineRequest",
    "Board",
    "BoardReading",
    "Branch",
    "Calls",
    "Cause",
    "Cell",
    "CheckResult",
    "Circumstance",
    "Clock",
    "Comparison",
    "DeepOp",
    "DeepProfile",
    "DeepReading",
    "DeepRow",
    "DeepTimes",
    "Digest",
    "Event",
    "EventName",
    "Execution",
    "Failure",
    "FailureReason",
    "Fault",
    "Forecast",
    "Identity",
    "Incident",
    "Lane",
    "Latency",
    "Ledger",
    "Level",
    "ModelState",
    "Node",
    "NodeCounts",
    "OpShare",
    "OutputAgreement",
    "Placed",
    "Placement",
    "Postponed",
    "Preflight",
    "Processor",
    "Production",
    "Profile",
    "Rates",
    "RejectedSample",
    "Rejection",
    "RejectionKind",
    "Relapse",
    "Replays",
    "Round",
    "Runtime",
    "Samples",
    "SessionFacts",
    "Shape",
    "Shifted",
    "Span",
    "Standing",
    "Strip",
    "Study",
    "Target",
    "Tensor",
    "Unstable",
    "Verdict",
    "Zone",
]
