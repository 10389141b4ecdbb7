"""FLOP counts against independent counters: all-ones tensors, spelled-out equations, invariants, the op lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, defs, helper
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from monitor.analysis.flops import TABLES, contrib, document, flops, kind, standard
from monitor.records import Node, Shape


def count(
    op: str, inputs: Sequence[Shape | None], *outputs: Shape | None, domain: str = "", **attributes: Any
) -> int | None:
    """FLOPs of ``op``; ``None`` among ``inputs`` is a missing optional input."""
    names = tuple("" if shape is None else f"i{i}" for i, shape in enumerate(inputs))
    node = Node("n", op, domain, names, tuple(f"o{i}" for i in range(len(outputs))), attributes=attributes)
    return flops(node, [shape for shape in inputs if shape is not None], outputs)


def microsoft(op: str, inputs: Sequence[Shape | None], *outputs: Shape | None, **attributes: Any) -> int | None:
    """:func:`count` in com.microsoft."""
    return count(op, inputs, *outputs, domain="com.microsoft", **attributes)


def total(*counts: int | None) -> int:
    """The sum of counts, all of which are known."""
    assert None not in counts
    return sum(number for number in counts if number is not None)


# ----------------------------------------------------------------------------------------------- the op lists


def schemas(domain: str) -> set[str]:
    """Every op that ONNX or ONNX Runtime knows in ``domain``, in whatever version."""
    known = {schema.name for schema in defs.get_all_schemas_with_history() if schema.domain == domain}
    return known | {schema.name for schema in ort_state.get_all_operator_schema() if schema.domain == domain}


@pytest.mark.parametrize(
    ("domain", "excused"),
    [("", standard.UNKNOWN), ("ai.onnx.ml", standard.ML_UNKNOWN), ("com.microsoft", contrib.UNKNOWN)],
)
def test_every_op_is_counted_or_excused(domain: str, excused: dict[str, str]) -> None:
    """Each op of ONNX, and each contrib op of this ONNX Runtime, has a rule or a written reason why not, never both."""
    if domain == "com.microsoft":
        required = schemas(domain)
    else:
        required = {schema.name for schema in defs.get_all_schemas() if schema.domain == domain}
    assert {name for name in required if kind(name, domain) == "unknown"} - excused.keys() == set()
    assert not TABLES[domain].keys() & excused.keys()


@pytest.mark.parametrize("domain", ["com.microsoft.nchwc", "com.ms.internal.nhwc"])
def test_every_layout_variant_is_counted(domain: str) -> None:
    """The ops that ONNX Runtime's layout rewrites produce are all counted."""
    assert {name for name in schemas(domain) if kind(name, domain) == "unknown"} == set()


@pytest.mark.parametrize("domain", ["", "ai.onnx.ml", "com.microsoft"])
def test_no_rule_is_for_an_op_that_does_not_exist(domain: str) -> None:
    """A misspelled op in a table, or in the list of excuses, is found."""
    excused = {"": standard.UNKNOWN, "ai.onnx.ml": standard.ML_UNKNOWN, "com.microsoft": contrib.UNKNOWN}[domain]
    assert (TABLES[domain].keys() | excused.keys()) - schemas(domain) == set()


def test_the_page_is_in_step_with_the_tables() -> None:
    """docs/flops.md says what the tables count."""
    page = Path(__file__).parents[2] / "docs" / "flops.md"
    assert page.read_text(encoding="utf-8") == document.page()


def test_kinds() -> None:
    """An op is arithmetic, movement or control by name alone, and unknown where no rule speaks of it."""
    assert [kind("Conv"), kind("Reshape"), kind("If"), kind("NonMaxSuppression")] == [
        "arithmetic",
        "movement",
        "control",
        "unknown",
    ]
    assert kind("Conv", "ai.onnx") == "arithmetic"
    assert kind("Conv", "com.example") == "unknown"


# -------------------------------------------------------------------------- multiply-accumulates by all-ones


def ones_sum(op: str, shapes: Sequence[Shape], **attributes: Any) -> tuple[int, Shape]:
    """MACs and output shape of ``op``, found by running it on ones: every product adds 1 to some output element."""
    names = [f"i{i}" for i in range(len(shapes))]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(names, shapes, strict=True)]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["o"], **attributes)], "g", infos, [onnx.ValueInfoProto(name="o")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    feeds = {name: np.ones(shape, np.float32) for name, shape in zip(names, shapes, strict=True)}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, feeds)
    return round(float(np.sum(output, dtype=np.float64))), np.shape(output)


small = st.integers(1, 4)


@settings(max_examples=40, deadline=None)
@given(
    batch=small,
    group=st.integers(1, 3),
    cin=small,
    cout=small,
    kernel=st.lists(small, min_size=1, max_size=2),
    data=st.data(),
)
def test_conv_macs(batch: int, group: int, cin: int, cout: int, kernel: list[int], data: st.DataObject) -> None:
    """A Conv without padding costs two FLOPs per product that it really forms."""
    space = [data.draw(st.integers(k, k + 3)) for k in kernel]
    shapes = [(batch, cin * group, *space), (cout * group, cin, *kernel)]
    macs, output = ones_sum("Conv", shapes, group=group)
    assert count("Conv", shapes, output, group=group) == 2 * macs


@settings(max_examples=40, deadline=None)
@given(batch=small, group=st.integers(1, 3), cin=small, cout=small, kernel=small, size=small, stride=st.integers(1, 3))
def test_conv_transpose_macs(batch: int, group: int, cin: int, cout: int, kernel: int, size: int, stride: int) -> None:
    """A ConvTranspose without padding costs two FLOPs per product that it really forms."""
    shapes = [(batch, cin * group, size, size), (cin * group, cout, kernel, kernel)]
    macs, output = ones_sum("ConvTranspose", shapes, group=group, strides=[stride, stride])
    assert count("ConvTranspose", shapes, output, group=group) == 2 * macs


@pytest.mark.parametrize(
    "shapes", [[(3, 4), (4, 5)], [(4,), (4,)], [(4,), (4, 5)], [(3, 4), (4,)], [(2, 1, 3, 4), (5, 4, 6)]]
)
def test_matmul_macs(shapes: list[Shape]) -> None:
    """MatMul counts its products for vectors, matrices and broadcast stacks alike."""
    macs, output = ones_sum("MatMul", shapes)
    assert count("MatMul", shapes, output) == 2 * macs


@pytest.mark.parametrize(("trans_a", "left"), [(0, (3, 4)), (1, (4, 3))])
def test_gemm_macs(trans_a: int, left: Shape) -> None:
    """Gemm contracts the right axis of a transposed A, and pays for C, alpha and beta only where they do something."""
    macs, output = ones_sum("Gemm", [left, (4, 5)], transA=trans_a)
    assert count("Gemm", [left, (4, 5)], output, transA=trans_a) == 2 * macs
    assert count("Gemm", [left, (4, 5), (5,)], output, transA=trans_a) == 2 * macs + 15
    assert count("Gemm", [left, (4, 5), (5,)], output, transA=trans_a, alpha=0.5, beta=2.0) == 2 * macs + 35


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(3, 4), (4, 5)]),
        ("bij , bjk -> bik", [(2, 3, 4), (2, 4, 5)]),
        ("...ij,...jk->...ik", [(2, 3, 4), (1, 4, 5)]),
        ("bhqd,bhkd", [(2, 3, 4, 5), (2, 3, 6, 5)]),
        ("i,i->", [(6,), (6,)]),
    ],
)
def test_einsum_macs(equation: str, shapes: list[Shape]) -> None:
    """An Einsum that contracts two operands costs two FLOPs per product, however its equation is written."""
    macs, output = ones_sum("Einsum", shapes, equation=equation)
    assert count("Einsum", shapes, output, equation=equation) == 2 * macs


def test_einsum_beyond_a_contraction() -> None:
    """Transposing is free, an outer product only multiplies, a sum only adds, and chains contract pair by pair."""
    assert count("Einsum", [(3, 4)], (4, 3), equation="ij->ji") == 0
    assert count("Einsum", [(3, 4)], (), equation="ij->") == 12
    assert count("Einsum", [(3,), (4,)], (3, 4), equation="i,j->ij") == 12
    assert count("Einsum", [(3, 4), (5,)], (3, 5), equation="ij,k->ik") == 12 + 15
    assert count("Einsum", [(5,), (3, 4)], (3, 5), equation="k,ij->ik") == 12 + 15
    chain = total(count("MatMul", [(2, 3), (3, 4)], (2, 4)), count("MatMul", [(2, 4), (4, 5)], (2, 5)))
    assert count("Einsum", [(2, 3), (3, 4), (4, 5)], (2, 5), equation="ij,jk,kl->il") == chain


def test_deform_conv_without_offsets_is_a_conv_plus_interpolation() -> None:
    """A DeformConv adds seven FLOPs per sampled tap to the Conv's, and one for its mask."""
    shapes: list[Shape | None] = [(2, 3, 5, 5), (4, 3, 3, 3), (2, 18, 3, 3), (4,), (2, 9, 3, 3)]
    plain = total(count("Conv", [(2, 3, 5, 5), (4, 3, 3, 3), (4,)], (2, 4, 3, 3)))
    assert count("DeformConv", shapes, (2, 4, 3, 3)) == plain + 8 * (2 * 3 * 9 * 9)


# ---------------------------------------------------------------------------------------------- recurrent cells


def gate(inputs: int, hidden: int, squash: str) -> int:
    """One gate of one step for batch 1, spelled as nodes: two products, their sum, two biases, the activation."""
    row = (1, hidden)
    products = total(
        count("MatMul", [(1, inputs), (inputs, hidden)], row), count("MatMul", [row, (hidden, hidden)], row)
    )
    return products + total(*(count("Add", [row, row], row),) * 3, count(squash, [row], row))


@pytest.mark.parametrize(("cell", "gates"), [("RNN", "T"), ("GRU", "SST"), ("LSTM", "SSST")])
@pytest.mark.parametrize("directions", [1, 2])
def test_recurrent_cells_equal_their_equations(cell: str, gates: str, directions: int) -> None:
    """RNN, GRU and LSTM cost what the equations in their documentation cost, per step, sequence and direction."""
    steps, batch, inputs, hidden = 5, 3, 7, 4
    tail = {"RNN": 0, "GRU": 5 * hidden, "LSTM": (3 + 1 + 1) * hidden}[cell]  # products and sums behind the gates
    step = tail + sum(gate(inputs, hidden, "Tanh" if name == "T" else "Sigmoid") for name in gates)
    rows = len(gates) * hidden
    shapes = [(steps, batch, inputs), (directions, rows, inputs), (directions, rows, hidden), (directions, 2 * rows)]
    assert count(cell, shapes, (steps, directions, batch, hidden)) == steps * batch * directions * step


def test_an_lstm_stored_transposed_costs_the_same() -> None:
    """DynamicQuantizeLSTM keeps its weights transposed and quantized; its FLOPs are the LSTM's."""
    plain = count("LSTM", [(5, 3, 7), (1, 16, 7), (1, 16, 4), (1, 32)], (5, 1, 3, 4))
    scales: list[Shape | None] = [(1,), (1,), (1,), (1,)]
    shapes = [(5, 3, 7), (1, 7, 16), (1, 4, 16), (1, 32), None, None, None, None, *scales]
    assert microsoft("DynamicQuantizeLSTM", shapes, (5, 1, 3, 4)) == plain


# ------------------------------------------------------------------------------------- rewriting changes nothing

X, W, B, Y = (1, 3, 8, 8), (4, 3, 3, 3), (4,), (1, 4, 6, 6)
A, M, V = (2, 6, 8), (8, 5), (5,)
CONV = count("Conv", [X, W, B], Y)
MATMUL = count("MatMul", [A, M], (2, 6, 5))
BIASED = total(MATMUL, count("Add", [(2, 6, 5), V], (2, 6, 5)))
ADD = count("Add", [A, A], A)
LAYER_NORM = count("LayerNormalization", [A, (8,), (8,)], A)
S: Shape = ()
FUSIONS = {
    "QLinearConv": (count("QLinearConv", [X, S, S, W, S, S, S, S, B], Y), CONV),
    "ConvInteger": (count("ConvInteger", [X, W, S, S], Y), count("Conv", [X, W], Y)),
    "FusedConv": (
        microsoft("FusedConv", [X, W, B, Y], Y, activation="Relu"),
        total(CONV, count("Add", [Y, Y], Y), count("Relu", [Y], Y)),
    ),
    "NhwcConv": (microsoft("NhwcConv", [(1, 8, 8, 3), (4, 3, 3, 3), B], (1, 6, 6, 4)), CONV),
    "FusedConv HardSwish": (
        microsoft("FusedConv", [X, W, B], Y, activation="HardSwish"),
        total(CONV, count("HardSwish", [Y], Y)),
    ),
    "MatMulInteger": (count("MatMulInteger", [A, M, S, S], (2, 6, 5)), MATMUL),
    "QLinearMatMul": (count("QLinearMatMul", [A, S, S, M, S, S, S, S], (2, 6, 5)), MATMUL),
    "MatMulIntegerToFloat": (microsoft("MatMulIntegerToFloat", [A, M, S, V, S, S, V], (2, 6, 5)), BIASED),
    "DynamicQuantizeMatMul": (microsoft("DynamicQuantizeMatMul", [A, M, S, None, V], (2, 6, 5)), BIASED),
    "MatMulNBits": (microsoft("MatMulNBits", [A, (5, 1, 4), (5,)], (2, 6, 5), K=8, N=5), MATMUL),
    "FusedMatMul": (microsoft("FusedMatMul", [(2, 8, 6), M], (2, 6, 5), transA=1), MATMUL),
    "FusedMatMul transBatchA": (microsoft("FusedMatMul", [(8, 2, 6), M], (2, 6, 5), transA=1, transBatchA=1), MATMUL),
    "FusedGemm": (
        microsoft("FusedGemm", [(6, 8), M, V], (6, 5), activation="Relu"),
        total(count("Gemm", [(6, 8), M, V], (6, 5)), count("Relu", [(6, 5)], (6, 5))),
    ),
    "QGemm": (microsoft("QGemm", [(6, 8), S, S, M, S, S, V], (6, 5)), count("Gemm", [(6, 8), M, V], (6, 5))),
    "BiasGelu": (microsoft("BiasGelu", [A, (8,)], A), total(ADD, count("Gelu", [A], A))),
    "FastGelu": (microsoft("FastGelu", [A], A), count("Gelu", [A], A, approximate="tanh")),
    "QuickGelu": (microsoft("QuickGelu", [A], A), count("Swish", [A], A)),
    "SkipLayerNormalization": (
        microsoft("SkipLayerNormalization", [A, A, (8,), (8,), (8,)], A),
        total(ADD, ADD, LAYER_NORM),
    ),
    "SkipLayerNormalization without bias": (
        microsoft("SkipLayerNormalization", [A, A, (8,), (8,)], A),
        total(ADD, LAYER_NORM),
    ),
    "SkipSimplifiedLayerNormalization": (
        microsoft("SkipSimplifiedLayerNormalization", [A, A, (8,)], A),
        total(ADD, count("RMSNormalization", [A, (8,)], A)),
    ),
    "EmbedLayerNormalization": (
        microsoft("EmbedLayerNormalization", [(2, 6), (2, 6), (99, 8), (6, 8), (2, 8), (8,), (8,)], A, (2,)),
        total(ADD, ADD, LAYER_NORM),
    ),
    "GroupNorm": (
        microsoft("GroupNorm", [(1, 8, 8, 4), B, B], (1, 8, 8, 4), groups=2, activation=1),
        total(
            count("GroupNormalization", [(1, 4, 8, 8), B, B], (1, 4, 8, 8), num_groups=2),
            count("Sigmoid", [(256,)], (256,)),
            count("Mul", [(256,), (256,)], (256,)),
        ),
    ),
    "QLinearAdd": (microsoft("QLinearAdd", [A, S, S, A, S, S, S, S], A), ADD),
    "QLinearSigmoid": (microsoft("QLinearSigmoid", [A, S, S, S, S], A), count("Sigmoid", [A], A)),
    "QAttention": (
        microsoft("QAttention", [A, (8, 24), (24,), S, S], A, num_heads=2),
        microsoft("Attention", [A, (8, 24), (24,)], A, num_heads=2),
    ),
    "Attention": (
        microsoft("Attention", [A, (8, 24), (24,)], A, num_heads=2),
        total(
            count("MatMul", [A, (8, 24)], (2, 6, 24)),
            microsoft("MultiHeadAttention", [A, A, A, (24,)], A, num_heads=2),
        ),
    ),
    "MultiHeadAttention packed": (
        microsoft("MultiHeadAttention", [(2, 6, 2, 3, 4)], A, num_heads=2),
        microsoft("MultiHeadAttention", [A, A, A], A, num_heads=2),
    ),
    "GroupQueryAttention": (
        microsoft("GroupQueryAttention", [A, A, A, None, None, (2,), S], A, num_heads=2, kv_num_heads=2),
        microsoft("MultiHeadAttention", [A, A, A], A, num_heads=2),
    ),
    "GroupQueryAttention packed": (
        microsoft("GroupQueryAttention", [(2, 6, 24), None, None, None, None, (2,), S], A, num_heads=2, kv_num_heads=2),
        microsoft("MultiHeadAttention", [A, A, A], A, num_heads=2),
    ),
    "nchwc Conv": (count("Conv", [X, W, B], Y, domain="com.microsoft.nchwc"), CONV),
    "nhwc QLinearConvTranspose": (
        count("QLinearConvTranspose", [X, S, S, (3, 4, 2, 2)], Y, domain="com.ms.internal.nhwc"),
        count("ConvTranspose", [X, (3, 4, 2, 2)], Y),
    ),
}


@pytest.mark.parametrize("name", FUSIONS)
def test_fusing_and_quantizing_leave_the_flops_alone(name: str) -> None:
    """A fused or quantized op costs exactly what the ops cost that it stands for."""
    rewritten, spelled = FUSIONS[name]
    assert rewritten is not None
    assert rewritten == spelled


def test_a_past_makes_attention_longer() -> None:
    """Cached keys count as keys: by the past's length, or by the present's where that is a shared buffer."""
    past = (2, 2, 10, 4)
    grown = microsoft("MultiHeadAttention", [A, A, A, None, None, None, past, past], A, num_heads=2)
    assert grown == microsoft("MultiHeadAttention", [A, (2, 16, 8), (2, 16, 8)], A, num_heads=2)
    present = (2, 2, 16, 4)
    arguments: list[Shape | None] = [A, A, A, past, past, (2,), S]
    grouped = microsoft("GroupQueryAttention", arguments, A, present, present, num_heads=2, kv_num_heads=2)
    assert grouped == grown
