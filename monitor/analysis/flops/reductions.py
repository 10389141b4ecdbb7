"""Ops that reduce: reductions, pooling, normalizations, losses.

A reduction costs 1 FLOP per input element. For a mean that is exact (n - 1 additions and the division); a sum is over
by one per output. A pooling window likewise costs its full size, taps on padding included.
"""

from __future__ import annotations

from math import prod

from monitor.analysis.flops.call import Call, UncountableError
from monitor.analysis.flops.elementwise import activation, cost, fused, gelu
from monitor.records import Shape


def per_input(call: Call) -> int:
    """1 per element of the first input."""
    return prod(call.inputs[0])


def reduce_pre(call: Call) -> int:
    """One primitive per input element, then the sum (ReduceL1, ReduceSumSquare)."""
    return 2 * prod(call.inputs[0])


def reduce_post(call: Call) -> int:
    """The sum, then one primitive per output element (ReduceLogSum)."""
    return prod(call.inputs[0]) + call.elements


def reduce_both(call: Call) -> int:
    """A primitive on either side of the sum (ReduceL2, ReduceLogSumExp)."""
    return 2 * prod(call.inputs[0]) + call.elements


def pool(call: Call) -> int:
    """The window's elements per output element."""
    return call.elements * _window(call) + fused(call)


def lp_pool(call: Call) -> int:
    """Abs, Pow and addition per element of the window, one root per output element."""
    return call.elements * (3 * _window(call) + 1)


def global_lp_pool(call: Call) -> int:
    """LpPool over the whole image."""
    return 3 * prod(call.inputs[0]) + call.elements


def _window(call: Call) -> int:
    kernel = call.integers("kernel_shape")
    if not kernel or min(kernel) < 0:
        raise UncountableError(f"kernel_shape {kernel}")
    return prod(kernel)


def softmax(call: Call) -> int:
    """ReduceMax, Sub, Exp, ReduceSum, Div per element."""
    return 5 * call.elements


def log_softmax(call: Call) -> int:
    """ReduceMax, Sub, Exp, ReduceSum, Sub per element, one Log per row."""
    return 5 * call.elements + _rows(call, call.inputs[0], call.integer("axis", -1))


def bias_softmax(call: Call) -> int:
    """BiasSoftmax: the addition and a softmax."""
    return 6 * call.elements


def _rows(call: Call, shape: Shape, axis: int) -> int:
    return call.elements // shape[axis] if prod(shape) else 0


def batch_normalization(call: Call) -> int:
    """Inference form: Sub, Div, Mul, Add per element; Add and Sqrt per channel."""
    return 4 * call.elements + 2 * prod(call.inputs[1]) + fused(call)


def instance_normalization(call: Call) -> int:
    """GroupNormalization with one channel a group."""
    return 7 * call.elements + 4 * call.inputs[0][0] * prod(call.inputs[1]) + fused(call)


def group_normalization(call: Call) -> int:
    """Mean, square, its mean, Sub, Div, scale, bias per element; Mul, Sub, Add, Sqrt per group."""
    return 7 * call.elements + 4 * call.inputs[0][0] * call.integer("num_groups")


def channel_last_group_norm(call: Call) -> int:
    """com.microsoft GroupNorm: the same and, if asked for, SiLU."""
    swish = activation("Silu") * bool(call.integer("activation", 0))
    return (7 + swish) * call.elements + 4 * call.inputs[0][0] * call.integer("groups")


def skip_group_norm(call: Call) -> int:
    """One addition for ``skip`` and one for ``bias``, then GroupNorm."""
    return channel_last_group_norm(call) + call.elements * (1 + call.inputs.has(4))


def mean_variance_normalization(call: Call) -> int:
    """Both means, Pow, Sub, Div per element; Pow, Sub, Sqrt, Add per group."""
    shape = call.inputs[0]
    axes = {axis % len(shape) for axis in call.integers("axes") or (0, 2, 3)}
    return 5 * prod(shape) + 4 * prod(size for axis, size in enumerate(shape) if axis not in axes)


def layer_normalization(call: Call, bias: int = 2) -> int:
    """Both means, square, Sub, Div, scale (and bias) per element; Mul, Sub, Add, Sqrt, Reciprocal per row."""
    shape, axis = call.inputs[0], call.integer("axis", -1)
    return (6 + call.inputs.has(bias)) * prod(shape) + 5 * prod(shape[: axis % len(shape)])


def rms_normalization(call: Call) -> int:
    """Square, mean, Div, scale per element; Add, Sqrt per row."""
    shape, axis = call.inputs[0], call.integer("axis", -1)
    return 4 * prod(shape) + 2 * prod(shape[: axis % len(shape)])


def skip_layer_normalization(call: Call) -> int:
    """The addition of ``skip`` (and ``bias``), then LayerNormalization."""
    return prod(call.inputs[0]) * (1 + call.inputs.has(4)) + layer_normalization(call, bias=3)


def skip_rms_normalization(call: Call) -> int:
    """The addition of ``skip`` (and ``bias``), then RMSNormalization."""
    return prod(call.inputs[0]) * (1 + call.inputs.has(3)) + rms_normalization(call)


def embed_layer_normalization(call: Call) -> int:
    """Two embeddings added (three with segments), then LayerNormalization with bias."""
    shape = call.outputs[0]
    return prod(shape) * (1 + call.inputs.has(1) + 7) + 5 * prod(shape[:-1])


def lp_normalization(call: Call) -> int:
    """Abs or square, sum, Div per element; for p = 2 a Sqrt per row."""
    rows = _rows(call, call.inputs[0], call.integer("axis", -1)) if call.integer("p", 2) == 2 else 0
    return 3 * call.elements + rows


def lrn(call: Call) -> int:
    """Square, ``size`` additions, Mul, Add, Pow, Div per element; alpha / size is one scalar."""
    return call.elements * (5 + call.integer("size"))


def _loss(call: Call, weighted: bool) -> int:
    """Neg per target (weighted: Mul), and the reduction (weighted mean: of the weights too)."""
    targets, reduction = prod(call.inputs[1]), call.text("reduction", "mean")
    reductions = 0 if reduction == "none" else 1 + (weighted and reduction == "mean")
    return targets * (1 + weighted + reductions)


def negative_log_likelihood(call: Call) -> int:
    """NegativeLogLikelihoodLoss by its function body."""
    return _loss(call, call.inputs.has(2))


def cross_entropy(call: Call) -> int:
    """LogSoftmax over the classes, then NegativeLogLikelihoodLoss."""
    scores = call.inputs[0]
    rows = prod(scores) // scores[1] if prod(scores) else 0
    return 5 * prod(scores) + rows * cost("Log") + _loss(call, call.inputs.has(2))


def biased_gelu(call: Call, steps: str) -> int:
    """A Gelu form spelled by ``steps`` behind an optional addition of input 1."""
    return call.elements * (cost(steps) + call.inputs.has(1))


def bias_split_gelu(call: Call) -> int:
    """BiasSplitGelu: all of X plus bias, Gelu of one half, the product with the other."""
    return prod(call.inputs[0]) + gelu(call) + call.elements
