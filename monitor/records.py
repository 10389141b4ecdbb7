"""The plain records that cross npumon's boundaries, and nothing else.

Everything the probe measures, the analysis concludes and the outputs show is one of these. They carry no
behaviour beyond trivial derived values, import nothing of npumon, and survive msgpack (the pipe, the state) and
JSON unchanged, so that a recorded run can be replayed through the analysis in a test, and metrics, events and
reports cannot disagree: all three read the same :class:`CheckResult`.

Units: seconds, FLOPs (1 MAC = 2 FLOPs), ratios 0-1. ``None`` means "not measured", never zero.
"""

from __future__ import annotations

from typing import Any, Literal

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
    "not_on_hardware",
]
Target = Literal["hexagon", "simulator", "cpu"]
FailureReason = Literal[
    "model_missing",  # no file, or not readable
    "model_invalid",  # truncated, not ONNX, refused by the runtime
    "dims_unknown",  # a free dimension override that the model does not have
    "input_unusable",  # no sample fits, or an input that cannot be synthesized
    "provider_missing",  # the execution provider's package or library is not there
    "session_failed",  # the runtime refused to create the session
    "run_failed",  # an inference raised
    "study_failed",  # the FLOPs of the model could not be established
    "probe_crashed",  # the child died
    "probe_timeout",  # the child did not answer in time and was killed
    "probe_protocol",  # the child answered with nonsense
    "internal",  # a defect of npumon itself
]

# ------------------------------------------------------------------------------------------------ graphs


class Node(Struct, frozen=True, omit_defaults=True):
    """One ONNX node, reduced to what FLOP counting and joining need.

    ``scope`` names the graph that holds it: ``""`` for the main graph, else ``"<control node>/<attribute>"`` of the
    innermost body (node names are unique over all scopes). ``attributes`` keeps numbers, strings and short lists; a
    body is kept as the list of its outputs, tensors are dropped. A missing optional input is ``""`` in ``inputs``.
    """

    name: str
    op_type: str
    domain: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    scope: str = ""
    attributes: dict[str, Any] = {}


class Execution(Struct, frozen=True):
    """How often ``nodes[node]`` of a study ran in one inference with these actual shapes.

    ``inputs`` lists the shapes of the inputs that are present, in order (missing optional ones are skipped, as in the
    runtime's profile); ``None`` stands for a value without a shape (sequence, optional).
    """

    node: int
    inputs: tuple[Shape | None, ...]
    outputs: tuple[Shape | None, ...]
    count: int = 1


class Study(Struct, frozen=True):
    """What one model computes, established once on the CPU: the ground for every FLOP figure.

    ``nodes`` is the model as shipped (functions inlined, names unique), ``runs`` the executions of one inference per
    sample, ``partitioned`` the graph that the runtime hands to the execution providers (saved at the basic
    optimization level), ``constants`` the values that became initializers in it, ``inputs`` and ``outputs`` the main
    graph's. ``assumed`` are the sizes chosen for free dimensions of synthesized inputs.
    """

    model_sha256: str
    dims: dict[str, int]
    samples: Literal["files", "synthetic"]
    assumed: dict[str, int]
    nodes: tuple[Node, ...]
    runs: tuple[tuple[Execution, ...], ...]
    partitioned: tuple[Node, ...]
    constants: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    onnxruntime: str
    notes: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------- what the probe saw


class Tensor(Struct, frozen=True):
    """One input of a model's signature. A free dimension is its name, or ``None`` where it has none."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


class Placed(Struct, frozen=True):
    """One node as the runtime placed it when the session was created. ``unit`` numbers the partitions."""

    name: str
    op_type: str
    domain: str
    processor: Processor
    unit: int


RejectionKind = Literal[
    "dynamic_shape",  # a shape is not known when the session is created
    "not_constant",  # an input must be an initializer
    "op_missing",  # the provider does not know the op at all
    "attribute",  # it knows the op, not this attribute, mode or equation
    "dtype",  # it knows the op, not for this data type
    "rank",  # it knows the op, not for this number of dimensions
    "backend",  # the accelerator's own validation refused this op with these types and shapes on this SoC
    "by_design",  # configured to stay on the CPU
    "unsupported",  # a reason never seen before
]


class Rejection(Struct, frozen=True):
    """Why the execution provider refused a node: its own words, and their kind as its module understands them."""

    node: str
    op_type: str
    reason: str
    kind: RejectionKind = "unsupported"


class Fault(Struct, frozen=True):
    """Something the execution provider said about the whole session, classified by its own module."""

    kind: Literal[
        "not_on_hardware", "accelerator_unavailable", "context_mismatch", "context_foreign", "option_ignored", "other"
    ]
    message: str
    mend: str = ""


class Runtime(Struct, frozen=True):
    """What really runs, as observed in the session; never what was asked for.

    ``target`` is ``hexagon`` or ``simulator`` only if the accelerator's backend came up in this very session.
    """

    provider: str
    target: Target
    onnxruntime: str
    provider_version: str
    backend_version: str | None = None
    machine: str = ""
    options: dict[str, str] = {}


class RejectedSample(Struct, frozen=True):
    """A sample file that does not fit the model. ``reason`` is a bounded label, ``detail`` the sentence."""

    file: str
    reason: Literal["unreadable", "name", "dtype", "shape", "too_large"]
    detail: str


class Samples(Struct, frozen=True):
    """Where the replayed inputs come from. ``accepted`` counts usable files; 0 when synthetic."""

    source: Literal["files", "synthetic"]
    accepted: int
    rejected: tuple[RejectedSample, ...] = ()


class SessionFacts(Struct, frozen=True):
    """Everything that is fixed once a session exists. ``placement`` is empty if the runtime recorded none.

    ``edges`` names the Q/DQ nodes at the edges of the graph.
    """

    model_sha256: str
    inputs: tuple[Tensor, ...]
    runtime: Runtime
    placement: tuple[Placed, ...]
    rejections: tuple[Rejection, ...]
    faults: tuple[Fault, ...]
    samples: Samples
    create_seconds: float
    edges: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Span(Struct, frozen=True):
    """One node's execution in a profiled run. Spans inside a control-flow node's span are marked ``nested``."""

    name: str
    op_type: str
    processor: Processor
    seconds: float
    nested: bool = False


class Profile(Struct, frozen=True):
    """A few profiled inferences. ``partial`` says why events are missing; then nothing is derived by subtraction."""

    runs: tuple[tuple[Span, ...], ...]
    partial: str | None = None


class DeepRow(Struct, frozen=True):
    """One op of the accelerator's own profile; ``cycles`` is the median of the profiled inferences.

    ``name`` is the accelerator's, ``sources`` the nodes that the runtime handed over for it, ``after`` the names of the
    ops whose results it reads (empty where that is not known). ``edge``: it carries a partition's inputs or outputs.
    """

    name: str
    sources: tuple[str, ...]
    cycles: int
    after: tuple[str, ...] = ()
    edge: bool = False


class DeepTimes(Struct, frozen=True):
    """Nested durations of one inference in seconds, medians of the profiled ones, each containing the next.

    ``inference`` is the host's clock around it, ``call`` the remote calls that run the partitions, ``accelerator``
    their execution there, ``busy`` that without waiting for its resources. ``None``: the provider does not report it.
    """

    inference: float
    call: float | None = None
    accelerator: float | None = None
    busy: float | None = None


class DeepReading(Struct, frozen=True):
    """What the accelerator's own profile says of ``runs`` inferences.

    ``unlisted`` are cycles of the accelerator's own total that no row accounts for. ``partial`` says why something, or
    all of it, is missing.
    """

    placement: tuple[Placed, ...]
    runs: int
    rows: tuple[DeepRow, ...] = ()
    unlisted: int = 0
    times: DeepTimes | None = None
    partial: str | None = None


class Replays(Struct, frozen=True):
    """Raw latencies of one check, in seconds, in the order they ran. ``drawn`` names the sample of each replay."""

    seconds: tuple[float, ...]
    warmups: tuple[float, ...]
    drawn: tuple[int, ...] = ()


class OutputAgreement(Struct, frozen=True):
    """One output of the model: what the accelerator's session gave against the CPU's, on the same samples.

    ``relative_error`` is ||a - c|| / ||c|| (2-norm, a from the accelerator, c from the CPU; Golub and Van Loan, Matrix
    Computations, 2.2.3) for the sample with the largest difference, by the norm of the sample with the largest one;
    ``cosine`` that of the angle between a and c, ``max_abs_error`` the largest finite |a - c|; for a quantized output
    (``kind``) of the integers without their zero point. ``unequal_ratio`` is the share of elements that differ, for
    discrete outputs (indices, classes, flags). The latter three are the worst sample's. ``nan``, ``inf`` (accelerator)
    and ``cpu_nan``, ``cpu_inf`` count over all elements of all samples. A value that only the CPU has finite counts as
    lost, as 0, in the error. ``compared`` of ``elements`` were looked at, over all samples. ``noise_ratio`` is the
    CPU's own error from one run to the next, measured only where the two disagree. ``skipped`` says why nothing was
    compared.
    """

    name: str
    kind: Literal["float", "quantized", "discrete", "other"]
    relative_error: float | None = None
    cosine: float | None = None
    max_abs_error: float | None = None
    unequal_ratio: float | None = None
    noise_ratio: float | None = None
    nan: int = 0
    inf: int = 0
    cpu_nan: int = 0
    cpu_inf: int = 0
    elements: int = 0
    compared: int = 0
    skipped: str = ""


class Comparison(Struct, frozen=True):
    """The accelerator's outputs against the CPU's, as measured over ``samples`` inferences."""

    samples: int
    outputs: tuple[OutputAgreement, ...]


# -------------------------------------------------------------------------------------- what was concluded


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
    """The latency signals of one check, and the raw replays behind them."""

    median_seconds: float
    cv_ratio: float
    replays_seconds: tuple[float, ...]
    warmups_seconds: tuple[float, ...]


class Agreement(Struct, frozen=True):
    """Whether the accelerator computes what the CPU computes.

    ``error_ratio`` is the largest error of an output that can be judged; ``None`` if nothing was compared. ``notes``
    say what was not, or not in full, and why.
    """

    error_ratio: float | None
    outputs: tuple[OutputAgreement, ...] = ()
    samples: int = 0
    notes: tuple[str, ...] = ()


class Failure(Struct, frozen=True):
    """Why a check measured nothing: a bounded reason, one sentence, what mends it, and the cause where it is known."""

    reason: FailureReason
    detail: str
    mend: str = ""
    cause: Cause | None = None


class Board(Struct, frozen=True):
    """The machine, as far as it tells. Absent facts stay ``None``."""

    hostname: str
    machine: str
    kernel: str
    soc: str | None = None


class CheckResult(Struct, frozen=True):
    """One check of one model: the single record that metrics, events, state, page and reports derive from.

    ``timestamp`` is UTC seconds since the epoch, ``duration_seconds`` the wall time of the whole check. ``error`` is
    set, and ``verdict`` is ``unknown``, if the check could not measure. ``breach`` names the latency gate that is
    exceeded.
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
    breach: Literal["median", "cv"] | None = None
    notes: tuple[str, ...] = ()
    deep: DeepProfile | None = None
    agreement: Agreement | None = None


Lane = Literal["accelerator", "cpu", "edge", "unattributed"]


class Cell(Struct, frozen=True):
    """One op of the model in a :class:`Strip`: where it ran, what it computes in one inference, and why it is there.

    ``unit`` numbers the partition, from 1 in the order they run; 0 off the accelerator. ``flops`` is ``None`` if
    those of the model are not known; ``reason`` is empty for what runs where it should.
    """

    name: str
    op_type: str
    lane: Lane
    unit: int = 0
    flops: int | None = None
    time_ratio: float | None = None
    reason: str = ""


class Strip(Struct, frozen=True):
    """One inference in the order it runs, for a report that draws it; never part of a :class:`CheckResult`.

    ``ordered_by`` says whose order it is: a profiled run of this session, or the study's run on the CPU. ``sample`` is
    the number of the drawn sample, from 1, of ``samples``; 0 where FLOPs are not known. ``omitted`` counts ops that
    compute nothing and whose place is not known.
    """

    cells: tuple[Cell, ...]
    ordered_by: Literal["session", "study"]
    sample: int = 0
    samples: int = 0
    omitted: int = 0


class Forecast(Struct, frozen=True):
    """The placement of one model on one SoC. ``error`` is set, and ``verdict`` is ``unknown``, without a session."""

    soc: str
    verdict: Verdict
    reason: str
    cause: Cause | None = None
    placement: Placement | None = None
    runtime: Runtime | None = None
    error: Failure | None = None


class Preflight(Struct, frozen=True):
    """One model over several SoCs, one session each. ``timestamp`` is UTC seconds since the epoch."""

    model: str
    timestamp: float
    forecasts: tuple[Forecast, ...]
    model_sha256: str | None = None
    samples: Literal["files", "synthetic"] | None = None
    notes: tuple[str, ...] = ()


EventName = Literal[
    "fallback_detected",
    "fallback_changed",
    "fallback_cleared",
    "latency_unstable",
    "latency_shifted",
    "latency_recovered",
    "check_failed",
    "check_recovered",
    "model_changed",
    "runtime_changed",
]
Level = Literal["info", "warning", "error"]


class Event(Struct, frozen=True):
    """One line of the event log, exactly as the contract lists its keys.

    ``id`` names the incident: the events that raise, change and clear it carry the same one, also over restarts.
    ``timestamp`` is UTC seconds since the epoch here and RFC 3339 in the log.
    """

    timestamp: float
    level: Level
    event: EventName
    id: str
    model: str
    reason: str
    model_sha256: str | None = None
    cause: Cause | None = None
    npu_flops_ratio: float | None = None
    median_seconds: float | None = None
    cv_ratio: float | None = None
    ops: tuple[OpShare, ...] = ()
    samples: Literal["files", "synthetic"] | None = None
    runtime: Runtime | None = None
    board: Board | None = None
    error: Failure | None = None


class Incident(Struct, frozen=True):
    """Something wrong that has been raised and not yet cleared. ``ops`` are the culprits it was last told with."""

    id: str
    since: float
    ops: tuple[str, ...] = ()
    cause: Cause | None = None


class ModelState(Struct, frozen=True):
    """What is remembered of one model between checks and over restarts: its open incidents and its identity."""

    model: str
    fallback: Incident | None = None
    latency: Incident | None = None
    failure: Incident | None = None
    model_sha256: str | None = None
    runtime: str | None = None
