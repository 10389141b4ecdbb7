"""FLOP counts over all sorts of shapes: conventions by example, odd shapes, and properties that hold for any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.analysis.flops import TABLES, flops
from monitor.records import Node, Shape

EVERY = [
    (domain, op) for domain in ("", "ai.onnx.ml", "com.microsoft", "com.ms.internal.nhwc") for op in TABLES[domain]
]


def count(op: str, inputs: Sequence[Shape | None], *outputs: Shape | None, **attributes: Any) -> int | None:
    """FLOPs of ``op`` with all its inputs present; ``None`` is a value without a shape."""
    names = tuple(f"i{i}" for i in range(len(inputs)))
    return flops(
        Node("n", op, "", names, tuple(f"o{i}" for i in range(len(outputs))), attributes=attributes), inputs, outputs
    )


@pytest.mark.parametrize(
    ("expected", "op", "inputs", "output", "attributes"),
    [
        (12, "Add", [(3, 1), (1, 4)], (3, 4), {}),
        (1, "Mul", [(), ()], (), {}),
        (24, "Sum", [(3, 4)] * 3, (3, 4), {}),
        (0, "Max", [(3, 4)], (3, 4), {}),
        (36, "Mean", [(3, 4)] * 3, (3, 4), {}),
        (48, "Sigmoid", [(3, 4)], (3, 4), {}),
        (24, "Clip", [(3, 4)], (3, 4), {"min": 0.0}),
        (12, "ReduceMean", [(3, 4)], (3, 1), {}),
        (36, "MaxPool", [(1, 1, 4, 4)], (1, 1, 2, 2), {"kernel_shape": [3, 3]}),
        (28, "LpPool", [(1, 1, 4, 4)], (1, 1, 2, 2), {"kernel_shape": [2]}),
        (16, "GlobalAveragePool", [(1, 1, 4, 4)], (1, 1, 1, 1), {}),
        (4 * 128 + 4, "BatchNormalization", [(1, 2, 8, 8), (2,), (2,), (2,), (2,)], (1, 2, 8, 8), {}),
        (7 * 128 + 8, "InstanceNormalization", [(1, 2, 8, 8), (2,), (2,)], (1, 2, 8, 8), {}),
        (36 + 3, "LpNormalization", [(3, 4)], (3, 4), {}),
        (36, "LpNormalization", [(3, 4)], (3, 4), {"p": 1}),
        (120, "LRN", [(1, 3, 2, 2)], (1, 3, 2, 2), {"size": 5}),
        (0, "Resize", [(1, 1, 4, 4)], (1, 1, 8, 8), {}),
        (7 * 64, "Resize", [(1, 1, 4, 4)], (1, 1, 8, 8), {"mode": "linear"}),
        (3 * 32, "Resize", [(1, 1, 4, 4)], (1, 1, 8, 4), {"mode": "linear"}),
        (31 * 64, "Resize", [(1, 1, 4, 4)], (1, 1, 8, 8), {"mode": "cubic"}),
        (31 * 16, "Resize", [(1, 1, 8, 8)], (1, 1, 4, 4), {"mode": "linear", "antialias": 1}),
        (0, "Resize", [(1, 1, 4, 4)], (1, 1, 4, 4), {"mode": "cubic"}),
        (7 * 18, "GridSample", [(1, 2, 5, 5), (1, 3, 3, 2)], (1, 2, 3, 3), {}),
        (8 * 8 * 4, "RoiAlign", [(1, 2, 9, 9), (1, 4), (1,)], (1, 2, 2, 2), {"sampling_ratio": 2}),
        (None, "RoiAlign", [(1, 2, 9, 9), (1, 4), (1,)], (1, 2, 2, 2), {}),
        (5 * 64 * 6, "DFT", [(1, 64, 2)], (1, 64, 2), {}),
        (5 * 64 * 3, "DFT", [(1, 64, 1)], (1, 33, 2), {"onesided": 1}),
        (5 * 64 * 3, "DFT", [(1, 33, 2)], (1, 64, 1), {"onesided": 1, "inverse": 1}),
        (10 * (5 * 64 * 3 + 64), "STFT", [(1, 999), (), (64,)], (1, 10, 33, 2), {}),
        (100 * 3, "TopK", [(1, 100)], (1, 8), {}),
        (100, "TopK", [(1, 100)], (1, 1), {}),
        (0, "ScatterND", [(9,), (3, 1), (3,)], (9,), {}),
        (3, "ScatterND", [(9,), (3, 1), (3,)], (9,), {"reduction": "add"}),
        (18, "Det", [(3, 3)], (), {}),
    ],
)
def test_conventions_by_example(
    expected: int | None, op: str, inputs: list[Shape], output: Shape, attributes: dict[str, Any]
) -> None:
    """Each convention of docs/flops.md gives the number that its words promise."""
    assert count(op, inputs, output, **attributes) == expected


def test_a_shape_that_is_needed_and_missing_makes_the_count_unknown() -> None:
    """A value without a shape matters only to a rule that looks at it."""
    assert count("Conv", [None, (4, 3, 3, 3)], (1, 4, 6, 6)) == 2 * 144 * 27
    assert count("Conv", [(1, 3, 8, 8), None], (1, 4, 6, 6)) is None
    assert count("Relu", [(3,)], None) is None
    assert count("Reshape", [None, None], None) == 0
    assert count("Conv", [(1, 3, 8, 8), (4, 3, 3, 3)], (1, 4, 6, -1)) is None
    assert count("NonMaxSuppression", [(1, 9, 4), (1, 1, 9)], (3, 3)) is None


def test_missing_optional_inputs_keep_their_positions() -> None:
    """The runtime skips a missing input in its list of shapes; the ones behind it are not taken for it."""
    skipped = Node("n", "Clip", "", ("x", "", "max"), ("y",))
    assert flops(skipped, [(5,), ()], [(5,)]) == 10
    sequence = Node("n", "LSTM", "", ("x", "w", "r", "", "lens"), ("y",))
    biased = Node("n", "LSTM", "", ("x", "w", "r", "b", "lens"), ("y",))
    shapes: list[Shape] = [(2, 1, 3), (1, 16, 3), (1, 16, 4)]
    unbiased = flops(sequence, [*shapes, (1,)], [(2, 1, 1, 4)])
    assert unbiased is not None
    assert flops(biased, [*shapes, (1, 32), (1,)], [(2, 1, 1, 4)]) == unbiased + 2 * 32


def test_shapes_that_cannot_be_aligned_are_not_trusted() -> None:
    """With more or fewer shapes than present inputs nobody knows which is which."""
    assert flops(Node("n", "MatMul", "", ("a", "b"), ("y",)), [(3, 4)], [(3, 5)]) is None
    assert flops(Node("n", "Relu", "", ("a", "b"), ("y",)), [(3, 4)], [(3, 4)]) == 12


shapes = st.one_of(st.none(), st.lists(st.integers(0, 9), max_size=5).map(tuple))
values = st.one_of(
    st.integers(-3, 9),
    st.floats(allow_nan=False),
    st.sampled_from(["", "linear", "nearest", "tanh", "Relu", "nonsense", "ij,jk->ik", "i...j"]),
    st.lists(st.integers(-3, 5), max_size=4),
    st.lists(st.sampled_from(["Tanh", "nonsense"]), max_size=3),
)
NAMES = (
    "activation activations alpha antialias axes axis beta equation group groups inverse kernel_shape kv_num_heads "
    "mode num_groups num_heads onesided p q_num_heads qkv_hidden_sizes reduction rotary_embedding_dim sampling_ratio "
    "signal_ndim size softcap transA transBatchA update_rule"
)


@settings(max_examples=1000, deadline=None)
@given(
    op=st.sampled_from(EVERY),
    inputs=st.lists(shapes, max_size=9),
    outputs=st.lists(shapes, max_size=3),
    attributes=st.dictionaries(st.sampled_from(NAMES.split(" ")), values, max_size=5),
)
def test_any_shapes_and_attributes_give_a_count_or_none(
    op: tuple[str, str], inputs: list[Shape | None], outputs: list[Shape | None], attributes: dict[str, Any]
) -> None:
    """Whatever a trace claims, counting never raises, never is negative, and is a whole number or unknown."""
    names = [tuple(f"{side}{i}" for i in range(len(s))) for side, s in (("i", inputs), ("o", outputs))]
    result = flops(Node("n", op[1], op[0], names[0], names[1], attributes=attributes), inputs, outputs)
    assert result is None or (type(result) is int and result >= 0)


BATCHED: dict[str, tuple[list[Shape], Shape, list[Shape], dict[str, Any]]] = {
    # op: batched inputs without the batch axis, output, shared inputs, attributes
    "Conv": ([(3, 8, 8)], (4, 6, 6), [(4, 3, 3, 3), (4,)], {}),
    "ConvTranspose": ([(3, 4, 4)], (4, 6, 6), [(3, 4, 3, 3)], {}),
    "MatMul": ([(5, 7)], (5, 6), [(7, 6)], {}),
    "Gemm": ([(7,)], (6,), [(7, 6), (6,)], {}),
    "Einsum": ([(5, 7)], (5, 6), [(7, 6)], {"equation": "bij,jk->bik"}),
    "Attention": ([(2, 5, 8)] * 3, (2, 5, 8), [], {}),
    "Softmax": ([(5, 7)], (5, 7), [], {}),
    "LogSoftmax": ([(5, 7)], (5, 7), [], {}),
    "LayerNormalization": ([(5, 7)], (5, 7), [(7,), (7,)], {}),
    "InstanceNormalization": ([(3, 8, 8)], (3, 8, 8), [(3,), (3,)], {}),
    "GroupNormalization": ([(4, 8, 8)], (4, 8, 8), [(4,), (4,)], {"num_groups": 2}),
    "MaxPool": ([(3, 8, 8)], (3, 4, 4), [], {"kernel_shape": [2, 2]}),
    "GlobalAveragePool": ([(3, 8, 8)], (3, 1, 1), [], {}),
    "Resize": ([(3, 8, 8)], (3, 16, 16), [], {"mode": "linear"}),
    "GridSample": ([(3, 8, 8), (4, 4, 2)], (3, 4, 4), [], {}),
    "DFT": ([(64, 1)], (33, 2), [], {"onesided": 1}),
    "Add": ([(3, 4), (3, 1)], (3, 4), [], {}),
    "LRN": ([(3, 8, 8)], (3, 8, 8), [], {"size": 3}),
}


@pytest.mark.parametrize("op", BATCHED)
@given(batch=st.integers(0, 50))
def test_flops_are_linear_in_the_batch(op: str, batch: int) -> None:
    """A batch of n costs n times a batch of one, and an empty batch nothing."""
    inputs, output, shared, attributes = BATCHED[op]
    one, many = (
        count(op, [*((size, *shape) for shape in inputs), *shared], (size, *output), **attributes)
        for size in (1, batch)
    )
    assert one
    assert many == batch * one


@given(group=st.integers(1, 8), cin=st.integers(1, 8), cout=st.integers(1, 8), kernel=st.integers(1, 5))
def test_groups_divide_a_convolution(group: int, cin: int, cout: int, kernel: int) -> None:
    """A Conv, or ConvTranspose, in g groups costs a g-th of the dense one with the same channels."""
    image, output = (2, cin * group, 9, 9), (2, cout * group, 9, 9)
    dense = count("Conv", [image, (cout * group, cin * group, kernel, kernel)], output)
    grouped = count("Conv", [image, (cout * group, cin, kernel, kernel)], output, group=group)
    transposed = count("ConvTranspose", [image, (cin * group, cout, kernel, kernel)], output, group=group)
    assert grouped is not None
    assert dense == group * grouped
    assert transposed == grouped
