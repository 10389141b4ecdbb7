"""What the probe saw, before anything is concluded from it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from monitor.records.vocabulary import Processor, Target


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
    """Where the replayed inputs come from. ``accepted`` counts usable files; 0 when synthetic.

    ``shapes`` are the different shapes of those files' inputs (:func:`monitor.bins.shapes_of`), ``made`` is the median
    of their times of change in UTC seconds.
    """

    source: Literal["files", "synthetic"]
    accepted: int
    rejected: tuple[RejectedSample, ...] = ()
    shapes: tuple[str, ...] = ()
    made: float | None = None


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
    """One node's execution in a profiled run.

    Spans inside a control-flow node's span are marked ``nested``; those of one node are summed up into one.
    """

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
    """Raw latencies of one check, in seconds, in the order they ran. ``drawn`` names the sample of each replay.

    ``switches`` are the involuntary context switches of the whole probe during each replay; empty if not known.
    """

    seconds: tuple[float, ...]
    warmups: tuple[float, ...]
    drawn: tuple[int, ...] = ()
    switches: tuple[int, ...] = ()


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
