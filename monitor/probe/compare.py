"""Repeats an audit's inferences on the CPU and measures how far the accelerator's outputs are from its own.

Placement can be perfect and the numbers wrong: an accelerator that computes in fp16 overflows where the CPU does not.
The CPU's session is made from the same named copy, without optimizations: its fused integer kernels may saturate
themselves (U8S8 on x86 without VNNI, onnxruntime's quantization guide), and it is an arbiter here, not a contender.
It runs in a process of its own that may not allocate more than it is told.
"""

from __future__ import annotations

import resource
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from monitor.errors import MeasureError
from monitor.probe import model as models
from monitor.probe import outputs as audited
from monitor.probe.model import Model
from monitor.probe.npz import Feeds
from monitor.probe.outputs import Array, Kept
from monitor.probe.provider import one_line
from monitor.probe.replay import run_once
from monitor.probe.samples import Corpus
from monitor.probe.session import CPU, session_options, signature
from monitor.records import Comparison, Failure, OutputAgreement
from monitor.wire import Compare, Spec

_MEND: Final = "compare_outputs = false switches the comparison off"
# Settings of the application's session that contradict one on the CPU, or would write the application's files anew.
_NOT_FOR_THE_CPU: Final = ("session.disable_cpu_ep_fallback", "optimized_model_filepath", "ep.")
_SHAPING: Final = frozenset({"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice"})

MOST_TRIED: Final = 16
"""Samples that are read in search of one that an audit has seen."""

FINEST: Final = 2.0**-14
"""The smallest normal number of fp16 (IEEE 754 binary16), in which the accelerators compute at best."""

Kind = Literal["float", "quantized", "discrete", "other"]


class Distance(NamedTuple):
    """How far two arrays are apart, as :class:`OutputAgreement` has it; ``None`` where it is not defined.

    ``difference`` and ``reference`` are root mean squares of the difference and of what is expected, ``peak`` the
    largest value expected.
    """

    difference: float = 0.0
    reference: float = 0.0
    peak: float = 0.0
    cosine: float | None = None
    max_abs_error: float | None = None
    unequal_ratio: float | None = None


class _Seen(NamedTuple):
    """One output of one sample; ``noise`` is the distance of a second run on the CPU."""

    kind: Kind
    distance: Distance
    noise: Distance | None
    counts: dict[str, int]


def compare(request: Compare) -> Comparison:
    """Compare what the audit left in ``request.folder``.

    Raises :class:`MeasureError`; its detail begins with ``memory`` if the bound was met.
    """
    try:
        with _bounded(request.memory):
            return _compare(request)
    except Exception as error:
        if _of_memory(error):
            allowed = f"{request.memory / 2**20:.0f} MiB"
            detail = f"memory: the CPU's run needs more than the {allowed} that it may use"
            raise MeasureError(Failure("run_failed", detail, _MEND)) from error
        raise


@contextmanager
def _bounded(memory: int) -> Iterator[None]:
    """At most ``memory`` bytes of private data (RLIMIT_DATA).

    RLIMIT_AS would also count mapped weights, libraries and address space that allocators reserve and never touch. Only
    the soft limit is set, so that there is memory again to tell of the failure with.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [limit for limit in (soft, hard, memory) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _of_memory(error: BaseException | None) -> bool:
    """Whether an allocation that failed is behind ``error``; libraries wrap it in their own kinds."""
    while error is not None:
        if isinstance(error, MemoryError) or "alloc" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False


def _compare(request: Compare) -> Comparison:
    session, zeros = _session(request.spec)
    names = [output.name for output in session.get_outputs()]
    files = Path(request.spec.samples) if request.spec.samples is not None else None
    corpus = Corpus(files, signature(session), request.spec.assumed)
    count, gone, seen, skipped = 0, 0, dict[str, list[_Seen]](), dict[str, str]()
    for index, run, arrays in audited.kept(Path(request.folder)):
        feeds = _find(corpus, index, run.inputs)
        if feeds is None:
            gone += 1
            continue
        reference = _Reference(session, names, feeds)
        for kept in run.outputs:
            found = _see(kept, arrays.get(kept.name), reference, zeros, request.tolerance)
            if isinstance(found, str):
                skipped[kept.name] = found
            seen.setdefault(kept.name, []).extend([] if isinstance(found, str) else [found])
        count += 1
    if gone and not count:
        detail = "the inputs are not those of the audit: the samples changed meanwhile, or the source takes others"
        raise MeasureError(Failure("input_unusable", detail, "the next audit compares again"))
    if not count:
        detail = "the audit left no outputs: is the folder for temporary files full?"
        raise MeasureError(Failure("run_failed", detail, "free space there, or point TMPDIR elsewhere"))
    outputs = (
        OutputAgreement(name, "other", skipped=skipped[name]) if name in skipped else _folded(name, samples)
        for name, samples in seen.items()
    )
    return Comparison(count, tuple(outputs))


def _find(corpus: Corpus, number: int, digest: str) -> Feeds | None:
    """The sample that an audit knew by ``number``; ``None`` if it has gone since.

    Where files came and went, others have moved into its place: it is not far from there.
    """
    for candidate in sorted(corpus.numbers(), key=lambda other: abs(other - number))[:MOST_TRIED]:
        try:
            feeds = corpus.load(candidate)
        except MeasureError as error:
            if _of_memory(error):
                raise
            continue
        if audited.digest(feeds) == digest:
            return feeds
    return None


class _Reference:
    """The CPU's outputs of one sample by name, and those of a second run if somebody asks."""

    def __init__(self, session: Any, names: Sequence[str], feeds: Feeds) -> None:
        self._session, self._names, self._feeds = session, names, feeds
        self.first = self._run()
        self._second: dict[str, Any] | None = None

    def second(self) -> dict[str, Any]:
        if self._second is None:
            self._second = self._run()
        return self._second

    def _run(self) -> dict[str, Any]:
        return dict(zip(self._names, run_once(self._session, self._feeds), strict=True))


def _session(spec: Spec) -> tuple[Any, dict[str, int]]:
    """A CPU session, and the zero point of each output that is quantized."""
    model = models.load(Path(spec.path))
    if model.contexts():
        if spec.source is None:
            detail = "a precompiled context does not run on the CPU"
            raise MeasureError(Failure("run_failed", detail, "give the model that it was made from (models.source)"))
        model = models.load(Path(spec.source))
    known = {d for shape in model.free_dimensions().values() for d in shape if isinstance(d, str)}
    spec = msgspec.structs.replace(
        spec,
        dims={name: size for name, size in spec.dims.items() if name in known or spec.source is None},
        session={key: value for key, value in spec.session.items() if not key.startswith(_NOT_FOR_THE_CPU)},
    )
    so = session_options(spec, model)
    so.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    so.log_severity_level = 4
    so.enable_profiling = False
    # Less memory: no second, rearranged copy of the weights, no arena that grows by doubling.
    so.add_session_config_entry("session.disable_prepacking", "1")
    so.enable_cpu_mem_arena = False
    try:
        session = ort.InferenceSession(model.source(), so, providers=CPU)
    except Exception as error:
        raise MeasureError(Failure("run_failed", f"the CPU cannot load the model: {one_line(error)}", _MEND)) from error
    return session, _zero_points(model)


def _zero_points(model: Model) -> dict[str, int]:
    """Outputs that a QuantizeLinear makes (shaping ops may follow), with its zero point, if it is one number."""
    makers = {value: node for node in model.proto.graph.node for value in node.output}
    constants = {tensor.name: tensor for tensor in model.proto.graph.initializer}
    found: dict[str, int] = {}
    for output in model.proto.graph.output:
        node = makers.get(output.name)
        while node is not None and node.op_type in _SHAPING:
            node = makers.get(node.input[0])
        if node is None or node.op_type != "QuantizeLinear":
            continue
        zero = _one_number(constants, node.input[2]) if len(node.input) > 2 and node.input[2] else 0
        if zero is not None:
            found[output.name] = zero
    return found


def _one_number(constants: dict[str, onnx.TensorProto], name: str) -> int | None:
    tensor = constants.get(name)
    values = np.unique(numpy_helper.to_array(tensor)) if tensor is not None else np.empty(0)
    return int(values[0]) if values.size == 1 else None


def _see(
    kept: Kept, array: Array | None, reference: _Reference, zeros: dict[str, int], tolerance: float
) -> _Seen | str:
    """One output of one sample, or why it cannot be compared."""
    expected = reference.first.get(kept.name)
    if kept.skipped or array is None or (kept.size and not array.size):
        return kept.skipped or "nothing of it was kept"
    if not isinstance(expected, np.ndarray) or expected.size != kept.size or expected.dtype != array.dtype:
        return "the CPU's has another name, type or size"
    kind: Kind = "float" if array.dtype.kind == "f" else "quantized" if kept.name in zeros else "discrete"
    zero, taken = zeros.get(kept.name, 0), audited.positions(kept.size, kept.count)
    reached = expected.reshape(-1)[taken]
    distance = distance_of(array, reached, kind, zero)
    nan, inf = audited.nonfinite(expected)
    error = distance.unequal_ratio if kind == "discrete" else relative([distance], [distance])
    noise = None
    if (error or 0.0) > tolerance or kept.nan + kept.inf > nan + inf:
        noise = distance_of(reference.second()[kept.name].reshape(-1)[taken], reached, kind, zero)
    counts = {"nan": kept.nan, "inf": kept.inf, "cpu_nan": nan, "cpu_inf": inf}
    return _Seen(kind, distance, noise, {**counts, "elements": kept.size, "compared": int(array.size)})


def distance_of(given: Array, expected: Array, kind: Kind, zero: int = 0) -> Distance:
    """How far ``given`` is from ``expected``, flat arrays of one size and type.

    A value that is NaN or Inf on the accelerator only counts as lost, as 0; one that the CPU itself has not finite has
    no size to compare with and is left out.
    """
    if not given.size:
        return Distance()
    if kind == "discrete":
        return Distance(unequal_ratio=float(np.count_nonzero(given != expected) / given.size))
    real = np.isfinite(expected)
    if not real.any():
        return Distance()
    a, c = (np.asarray(array[real], np.float64) - zero for array in (given, expected))
    there = np.isfinite(a)
    furthest = float(np.max(np.abs(a - c)[there], initial=0.0))
    a = np.where(there, a, 0.0)
    peak = float(np.max(np.abs(c)))
    largest = max(float(np.max(np.abs(a))), peak)
    if largest == 0:
        return Distance(max_abs_error=0.0)
    a, c = a / largest, c / largest  # the squares of what float64 can hold must not overflow
    norm_a, norm_c = float(np.linalg.norm(a)), float(np.linalg.norm(c))
    cosine = float(np.clip(a @ c / (norm_a * norm_c), -1, 1)) if norm_a and norm_c else None
    unit = largest / a.size**0.5
    return Distance(float(np.linalg.norm(a - c)) * unit, norm_c * unit, peak, cosine, furthest)


def relative(distances: Sequence[Distance], of: Sequence[Distance]) -> float | None:
    """The largest difference in units of the largest sample ``of`` them, so that one that is all but 0 does not decide.

    ``None`` if nothing exceeds what fp16 resolves: then no size is known to compare with.
    """
    known = [distance.difference for distance in distances if distance.max_abs_error is not None]
    difference = max(known, default=0.0)
    if difference == 0:
        return 0.0 if known else None
    sizes = [size for distance in of for size in (distance.peak, distance.max_abs_error or 0.0)]
    if max(sizes, default=0.0) < FINEST:
        return None
    return difference / max(FINEST, *(distance.reference for distance in of))


def _folded(name: str, samples: Sequence[_Seen]) -> OutputAgreement:
    """One output over all samples: the worst of each measure, the sum of each count."""
    distances = [seen.distance for seen in samples]
    noises = [seen.noise for seen in samples if seen.noise is not None]
    discrete = samples[0].kind == "discrete"
    noise = _most(n.unequal_ratio for n in noises) if discrete else relative(noises, distances) if noises else None
    cosines = [d.cosine for d in distances if d.cosine is not None]
    counts: Any = {field: sum(seen.counts[field] for seen in samples) for field in samples[0].counts}
    return OutputAgreement(
        name=name,
        kind=samples[0].kind,
        relative_error=None if discrete else relative(distances, distances),
        cosine=min(cosines, default=None),
        max_abs_error=_most(d.max_abs_error for d in distances),
        unequal_ratio=_most(d.unequal_ratio for d in distances),
        noise_ratio=noise,
        **counts,
    )


def _most(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
