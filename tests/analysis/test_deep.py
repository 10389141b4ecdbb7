"""The accelerator's profile joined to the model: every cycle is an op's, the layout's, or said to match nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.analysis.deep import deep
from monitor.records import DeepReading, DeepRow, DeepTimes, Node, Placed, Study

# Conv -> Q -> DQ -> MaxPool, as the model has it; the runtime re-made the DQ, and put a Transpose before the Conv.
NODES = (
    Node("conv", "Conv", inputs=("x", "w"), outputs=("c",)),
    Node("relu", "Relu", inputs=("c",), outputs=("r",)),
    Node("q", "QuantizeLinear", inputs=("r", "s"), outputs=("rq",)),
    Node("dq", "DequantizeLinear", inputs=("rq", "s"), outputs=("rd",)),
    Node("pool", "MaxPool", inputs=("rd",), outputs=("y",)),
)
CONV = DeepRow("conv_token_1", ("DequantizeLinear_token_9", "conv_token_1", "relu", "q"), 700)
REMADE = DeepRow("DequantizeLinear_token_5", ("DequantizeLinear_token_5",), 100, after=("conv_token_1",))
POOL = DeepRow("pool", ("pool",), 100)
TRANSPOSE = DeepRow("Transpose_token_3", ("q", "Transpose_token_3"), 80)
INPUT = DeepRow("Input", (), 20, edge=True)


def study() -> Study:
    """A study of ``NODES`` that nothing was optimized in."""
    return Study("0", {}, "synthetic", {}, NODES, (), NODES, (), ("x",), ("y",), "1.32.0")


def reading(
    *rows: DeepRow, unlisted: int = 0, times: DeepTimes | None = None, partial: str | None = None
) -> DeepReading:
    """A reading of one inference, with the placement of everything that its rows name."""
    types = {"conv_token_1": "Conv", "relu": "Relu", "q": "QuantizeLinear", "pool": "MaxPool"}
    types |= {"Transpose_token_3": "Transpose", "DequantizeLinear_token_5": "DequantizeLinear"}
    placed = tuple(Placed(name, op_type, "", "accelerator", 0) for name, op_type in types.items())
    return DeepReading(placed, 1, rows, unlisted, times, partial)


def test_every_row_goes_to_its_op_or_to_layout() -> None:
    """A fused op is named with what is in it, the inserted is one row, and the shares sum to 1."""
    found = deep(reading(CONV, REMADE, POOL, TRANSPOSE, INPUT), study())
    assert [(op.part, op.node, op.op_type, op.fused, op.cycles) for op in found.ops] == [
        ("op", "conv", "Conv", ("relu",), 700),
        ("layout", "layout", "", (), 100),
        ("op", "dq", "DequantizeLinear", (), 100),
        ("op", "pool", "MaxPool", (), 100),
    ]
    assert (found.total_cycles, found.joined_ratio, found.layout_ratio, found.unjoined_ratio) == (1000, 0.9, 0.1, 0)


def test_a_remade_quantizer_is_not_guessed() -> None:
    """Without knowing what it reads, a DequantizeLinear under a new name is layout, not the model's."""
    found = deep(reading(CONV, DeepRow(REMADE.name, REMADE.sources, 100)), study())
    assert found.layout_ratio == pytest.approx(1 / 8)


def test_a_quantizer_that_a_row_already_names_is_not_joined_twice() -> None:
    """If the model's own DequantizeLinear is accounted for, another one behind the same value was inserted."""
    pool = DeepRow("pool", ("dq", "pool"), 100)
    found = deep(reading(CONV, REMADE, pool), study())
    assert {op.node for op in found.ops if op.part == "op"} == {"conv", "pool"}
    assert found.layout_ratio == pytest.approx(1 / 9)


def test_a_copy_for_another_reader_is_the_original() -> None:
    """The runtime's duplicate of a DequantizeLinear counts as the model's node."""
    found = deep(reading(DeepRow("dq/duplicated", ("dq/duplicated",), 5)), study())
    assert [(op.node, op.part) for op in found.ops] == [("dq", "op")]


def test_what_matches_nothing_is_said() -> None:
    """An unknown op keeps its name and its cycles, and cycles that no row lists count as unjoined too."""
    found = deep(reading(CONV, DeepRow("mystery", ("nobody",), 200), unlisted=100), study())
    assert [(op.node, op.part) for op in found.ops] == [("conv", "op"), ("mystery", "unjoined")]
    assert (found.total_cycles, found.unjoined_ratio) == (1000, 0.3)


def test_a_name_with_the_separator_in_it_joins_by_the_op() -> None:
    """A semicolon in a node's name breaks its sources apart; the op's own name still joins."""
    nodes = (Node("semi;colon", "MatMul", inputs=("x",), outputs=("y",)),)
    named = Study("0", {}, "synthetic", {}, nodes, (), nodes, (), ("x",), ("y",), "1.32.0")
    found = deep(DeepReading((), 1, (DeepRow("semi;colon", ("semi", "colon"), 7),)), named)
    assert [op.node for op in found.ops] == ["semi;colon"]


def test_without_a_study_the_placement_names_the_ops() -> None:
    """A model that the CPU cannot run is still joined to the runtime's names."""
    found = deep(reading(CONV, POOL, TRANSPOSE), None)
    assert {op.node: op.op_type for op in found.ops if op.part == "op"} == {"conv": "Conv", "pool": "MaxPool"}


@given(
    st.lists(st.sampled_from((CONV, REMADE, POOL, TRANSPOSE, INPUT, DeepRow("mystery", (), 3))), min_size=1),
    st.integers(0, 10**12),
)
def test_the_books_balance(rows: list[DeepRow], unlisted: int) -> None:
    """Whatever the rows, op, layout and unjoined sum to 1, and listed and unlisted cycles to the total."""
    found = deep(reading(*rows, unlisted=unlisted), study())
    assert found.total_cycles == sum(row.cycles for row in rows) + unlisted
    assert sum(op.cycles for op in found.ops) + unlisted == found.total_cycles
    parts = (found.joined_ratio, found.layout_ratio, found.unjoined_ratio)
    assert sum(part for part in parts if part is not None) == pytest.approx(1)


def test_the_parts_of_an_inference_add_up() -> None:
    """Nested durations become accelerator, waiting, RPC and host, which sum to the inference."""
    found = deep(reading(CONV, times=DeepTimes(0.010, 0.008, 0.006, 0.005)), study())
    parts = (found.accelerator_seconds, found.wait_seconds, found.rpc_seconds, found.host_seconds)
    assert parts == pytest.approx((0.005, 0.001, 0.002, 0.002))
    assert found.inference_seconds == 0.010


def test_what_was_not_reported_is_absent() -> None:
    """The simulator reports neither RPC nor waiting: they are absent, never 0, and the host keeps the rest."""
    found = deep(reading(CONV, times=DeepTimes(0.010, None, 0.006, None)), study())
    assert (found.wait_seconds, found.rpc_seconds) == (None, None)
    assert (found.accelerator_seconds, found.host_seconds) == pytest.approx((0.006, 0.004))


def test_clocks_that_disagree_tell_nothing() -> None:
    """An inner duration longer than the one around it makes the part between them absent, never negative."""
    found = deep(reading(CONV, times=DeepTimes(0.010, 0.008, 0.009, None)), study())
    assert found.rpc_seconds is None


@pytest.mark.parametrize("partial", ["the profile is cut", None])
def test_no_figure_comes_from_a_partial_profile(partial: str | None) -> None:
    """A profile that is cut, or that counts nothing, gives a reason and no shares."""
    rows = (CONV,) if partial else ()
    found = deep(reading(*rows, times=DeepTimes(0.010), partial=partial), study())
    assert found.partial
    assert (found.ops, found.joined_ratio, found.total_cycles) == ((), None, None)
    assert found.inference_seconds == 0.010
