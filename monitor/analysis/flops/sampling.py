"""Ops whose cost is a convention rather than a formula of their specification: resampling, transforms, sorting.

Interpolation counts the weighted sum of the taps (t multiplications, t - 1 additions). The weights depend on the
position only and are shared by all channels, so computing them is left out. A transform of length n counts
5 n log2(n), the figure that FFT benchmarks use (http://www.fftw.org/speed/method.html), half of it if one side is real.
Selecting and sorting count the comparisons of the best algorithm known, n log2.
"""

from __future__ import annotations

from math import ceil, log2, prod

from monitor.analysis.flops.call import Call, UncountableError
from monitor.records import Shape

_TAPS = {"nearest": 0, "linear": 2, "bilinear": 2, "trilinear": 2, "cubic": 4, "bicubic": 4}


def resize(call: Call) -> int:
    """Taps over those axes whose size changes, per output element; nearest 0; antialiasing widens a shrinking axis."""
    taps = _taps(call, "nearest")
    if not taps:
        return 0
    before, after = call.inputs[0], call.outputs[0]
    antialias = call.integer("antialias", 0)
    widths = [
        taps * max(1, ceil(old / new)) if antialias else taps
        for old, new in zip(before, after, strict=True)
        if old != new and new
    ]
    return prod(after) * (2 * prod(widths) - 1) if widths else 0


def grid_sample(call: Call) -> int:
    """Taps over the spatial axes per output element; nearest 0."""
    taps = _taps(call, "linear")
    return call.elements * (2 * prod(taps for _ in call.outputs[0][2:]) - 1) if taps else 0


def crop_and_resize(call: Call) -> int:
    """Four taps per output element; nearest 0."""
    return 7 * call.elements if _taps(call, "bilinear") else 0


def _taps(call: Call, default: str) -> int:
    mode = call.text("mode", default)
    if mode not in _TAPS:
        raise UncountableError(f"mode {mode!r}")
    return _TAPS[mode]


def roi_align(call: Call) -> int:
    """Bilinear samples (7) and their reduction (1); without ``sampling_ratio`` their number is data."""
    ratio = call.integer("sampling_ratio", 0)
    if ratio <= 0:
        raise UncountableError("the sampling grid depends on the regions")
    return 8 * call.elements * ratio**2


def affine_grid(call: Call) -> int:
    """The function body: theta (3 x 4, also for 2-D) times every point, and four additions to lay the points out."""
    batch, *points = call.outputs[0][:-1]
    return prod(points) * (24 * batch + 4)


def transform(length: int, real: bool) -> float:
    """FLOPs of one discrete Fourier transform."""
    return 5 * length * log2(length) / (1 + real) if length > 1 else 0.0


def dft(call: Call) -> int:
    """One transform per row along the axis, whose length is the output's, or what its one-sided half stands for."""
    before, after = call.inputs[0], call.outputs[0]
    axis = _dft_axis(call, before, after)
    onesided = bool(call.integer("onesided", 0))
    inverse = bool(call.integer("inverse", 0))
    length = _whole(after[axis]) if onesided and not inverse else after[axis]
    rows = prod(after[:-1]) // after[axis] if after[axis] else 0
    return round(rows * transform(length, real=before[-1] == 1 or (onesided and inverse)))


def _dft_axis(call: Call, before: Shape, after: Shape) -> int:
    """The attribute (opset 17), the default, or, if input 2 names it, the only axis that it can be."""
    if "axis" in call.node.attributes or not call.inputs.has(2):
        axis = call.integer("axis", -2 if len(before) > 2 else 0)
        return range(len(after))[axis]
    signal = range(len(after) - 1)
    for candidates in ([i for i in signal if before[i] != after[i]], [i for i in signal if before[i] != 1]):
        if len(candidates) == 1:
            return candidates[0]
    raise UncountableError("the axis is data")


def _whole(half: int) -> int:
    return max(2 * (half - 1), 1)


def stft(call: Call) -> int:
    """One transform per frame, and one multiplication per sample of it if there is a window."""
    batch, frames, bins = call.outputs[0][:3]
    unwindowed = _whole(bins) if call.integer("onesided", 1) else bins
    length = call.inputs[2][0] if call.inputs.has(2) else unwindowed
    signal = call.inputs[0]
    real = len(signal) == 2 or signal[-1] == 1
    return round(batch * frames * (transform(length, real) + length * call.inputs.has(2)))


def real_transform(call: Call) -> int:
    """com.microsoft Rfft and Irfft over the last ``signal_ndim`` axes; the complex side has 2 behind them."""
    real = call.outputs[0] if call.node.op_type == "Irfft" else call.inputs[0]
    axes = call.integer("signal_ndim", 1)
    length = prod(real[len(real) - axes :])
    return round(prod(real) // length * transform(length, real=True)) if length else 0


def top_k(call: Call) -> int:
    """A heap of k: log2(k) comparisons per input element, at least one."""
    k = call.outputs[0][call.integer("axis", -1)] if call.outputs[0] else 1
    return prod(call.inputs[0]) * max(_log2(k), 1)


def unique(call: Call) -> int:
    """A sort: log2(n) comparisons per element."""
    count = prod(call.inputs[0])
    return count * _log2(count)


def multinomial(call: Call) -> int:
    """ReduceMax, Sub, Exp, CumSum per class, then a binary search per sample."""
    return 4 * prod(call.inputs[0]) + call.elements * _log2(call.inputs[0][-1])


def _log2(count: int) -> int:
    return (count - 1).bit_length() if count > 1 else 0


def scatter(call: Call) -> int:
    """With a ``reduction`` 1 per update, else pure movement."""
    return 0 if call.text("reduction", "none") == "none" else prod(call.inputs[2])


def determinant(call: Call) -> int:
    """LU factorization, 2/3 n^3 per matrix (Golub and Van Loan, Matrix Computations, 3.2)."""
    shape = call.inputs[0]
    return 2 * prod(shape[:-2]) * shape[-1] ** 3 // 3


def inverse(call: Call) -> int:
    """2 n^3 per matrix (LAPACK Working Note 41: LU and its inverse)."""
    return 2 * call.elements * call.inputs[0][-1]


def pairwise_distance(call: Call) -> int:
    """CDist: Sub, Mul, Add per feature of each pair, for the Euclidean metric one Sqrt."""
    return call.elements * (3 * call.inputs[0][-1] + (call.text("metric", "sqeuclidean") == "euclidean"))
