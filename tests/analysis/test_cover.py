"""The value cover, step by step, on the smallest graphs that need each step."""

from __future__ import annotations

from monitor.analysis.cover import Cover, control_of, cover, strip_token
from monitor.records import Node, Placed, Study
from tests.analysis.evidence import node, placed, study

UNATTRIBUTED = Cover("unattributed", None, ())


def covers(found: Study, *placement: Placed) -> dict[str, Cover]:
    """Where each node of the model went, by name."""
    return {n.name: c for n, c in zip(found.nodes, cover(found, placement), strict=True)}


def both(*nodes: Node) -> Study:
    """A model that is partitioned as it was shipped."""
    return study(nodes, nodes)


def test_a_node_is_found_by_its_own_name() -> None:
    """Name and op type in the placement decide."""
    found = covers(
        both(node("a", "Conv", "x w", "v"), node("b", "Relu", "v", "y")),
        placed("a", "Conv"),
        placed("b", "Relu", "cpu"),
    )
    assert found == {"a": Cover("placed", "accelerator", ("a",)), "b": Cover("placed", "cpu", ("b",))}


def test_the_layout_transformers_suffix_is_no_part_of_a_name() -> None:
    """A node moved to another layout got a suffix; its copies on one processor are one node."""
    found = covers(both(node("a", "Conv", "x w", "y")), placed("a_token_12", "Conv"))
    assert found["a"] == Cover("placed", "accelerator", ("a",))
    assert strip_token("a_token_12") == "a"
    assert strip_token("a_token_x") == "a_token_x"


def test_a_name_of_another_op_is_another_node() -> None:
    """An inserted node that happens to have the name does not count; the value decides."""
    found = covers(
        study([node("a", "MatMul", "x w", "y")], [node("a/Fused", "Gemm", "x w", "y")]),
        placed("a", "Transpose", "cpu"),
        placed("a/Fused", "Gemm"),
    )
    assert found["a"] == Cover("placed", "accelerator", ("a/Fused",))


def test_two_processors_for_one_name_are_unattributed() -> None:
    """A node with copies on both processors is counted for neither."""
    found = covers(both(node("a", "Conv", "x w", "y")), placed("a_token_1", "Conv"), placed("a", "Conv", "cpu"))
    assert found["a"] == UNATTRIBUTED


def test_a_renamed_node_is_found_by_its_value() -> None:
    """A fused node keeps the last value: what made it, made it."""
    shipped = [node("mm", "MatMul", "x w", "v"), node("add", "Add", "v b", "y")]
    found = covers(study(shipped, [node("mm/Fusion", "Gemm", "x w b", "y")]), placed("mm/Fusion", "Gemm", "cpu"))
    assert found["add"] == Cover("placed", "cpu", ("mm/Fusion",))


def test_a_fused_node_is_found_by_walking_forward() -> None:
    """A value that is gone leads to the first one behind it that both graphs know."""
    shipped = [
        node("mm", "MatMul", "x w", "v"),
        node("scale", "Mul", "v s", "u"),
        node("add", "Add", "u b", "y"),
    ]
    found = covers(study(shipped, [node("fused", "Gemm", "x w b", "y")]), placed("fused", "Gemm"))
    assert found["mm"] == found["scale"] == found["add"] == Cover("placed", "accelerator", ("fused",))


def test_a_node_folded_into_its_producer() -> None:
    """BatchNormalization into Conv: the Conv now makes the later value."""
    shipped = [node("conv", "Conv", "x w", "v"), node("bn", "BatchNormalization", "v s b m n", "y")]
    found = covers(study(shipped, [node("conv", "Conv", "x w2 b2", "y")]), placed("conv_token_1", "Conv", "cpu"))
    assert found["conv"] == Cover("placed", "cpu", ("conv",))
    assert found["bn"] == Cover("placed", "cpu", ("conv",))


def test_a_fusion_that_is_split_over_both_processors() -> None:
    """Work that landed on both is unattributed, never guessed."""
    shipped = [node("gelu", "Gelu", "x", "y")]
    expanded = [node("", "Erf", "x", "t"), node("out", "Mul", "t half", "y")]
    found = covers(study(shipped, expanded, "half"), placed("", "Erf", "cpu"), placed("out", "Mul"))
    assert found["gelu"] == UNATTRIBUTED


def test_a_node_that_became_a_constant_is_folded() -> None:
    """What is computed once at start-up is no part of an inference."""
    shipped = [node("k", "Add", "c1 c2", "k_out"), node("a", "Add", "x k_out", "y")]
    found = covers(study(shipped, shipped[1:], "k_out"), placed("a", "Add"))
    assert found["k"] == Cover("folded", None, ())


def test_a_node_before_a_constant_is_folded_too() -> None:
    """A chain that ends in an initializer was folded as a whole."""
    shipped = [
        node("k1", "Add", "c1 c2", "k1_out"),
        node("k2", "Mul", "k1_out c1", "k2_out"),
        node("a", "Add", "x k2_out", "y"),
    ]
    assert covers(study(shipped, shipped[2:], "k2_out"), placed("a", "Add"))["k1"].fate == "folded"


def test_a_node_whose_consumers_read_another_value_is_eliminated() -> None:
    """An Identity is gone and its consumer reads what it read."""
    shipped = [node("id", "Identity", "x", "v"), node("a", "Relu", "v", "y")]
    found = covers(study(shipped, [node("a", "Relu", "x", "y")]), placed("a", "Relu", "cpu"))
    assert found["id"] == Cover("eliminated", None, ())


def test_a_node_that_nobody_reads_is_eliminated() -> None:
    """Dead ends are removed before partitioning."""
    shipped = [node("dead", "Exp", "x", "v"), node("a", "Relu", "x", "y")]
    assert covers(study(shipped, shipped[1:]), placed("a", "Relu"))["dead"].fate == "eliminated"


def conditional() -> list[Node]:
    """An If with one node in either body, and another If in the first."""
    return [
        node("choice", "If", "c", "y", then_branch=["t"], else_branch=["e"]),
        node("heavy", "MatMul", "x w", "t", "choice/then_branch"),
        node("light", "Neg", "x", "e", "choice/else_branch"),
        node("inner", "If", "c", "i", "choice/then_branch"),
        node("deep", "Exp", "x", "d", "inner/else_branch"),
    ]


def test_a_whole_if_on_the_accelerator_takes_its_bodies_along() -> None:
    """A control node that the accelerator took whole is placed alone; all that is in it, at any depth, ran there."""
    found = covers(both(*conditional()), placed("choice", "If"))
    assert {c.processor for c in found.values()} == {"accelerator"}
    assert control_of("a/b/then_branch") == "a/b"


def test_an_if_on_the_cpu_does_not_decide_for_its_bodies() -> None:
    """The bodies of an If on the CPU are partitioned: a node without a place of its own is unattributed."""
    found = covers(
        both(*conditional()), placed("choice", "If", "cpu"), placed("heavy", "MatMul"), placed("light", "Neg", "cpu")
    )
    assert found["heavy"].processor == "accelerator"
    assert found["light"].processor == "cpu"
    assert found["deep"] == UNATTRIBUTED


def test_an_inlined_body_is_found_by_its_values() -> None:
    """An If with a constant condition is inlined: its values get a prefix, its last one becomes the If's own."""
    shipped = [
        node("choice", "If", "c", "y", then_branch=["t"], else_branch=["e"]),
        node("first", "Exp", "x", "u", "choice/then_branch"),
        node("last", "MatMul", "u w", "t", "choice/then_branch"),
    ]
    inlined = [node("other1", "Exp", "x", "_if_then_branch_u"), node("other2", "MatMul", "_if_then_branch_u w", "y")]
    found = covers(study(shipped, inlined), placed("other1", "Exp", "cpu"), placed("other2", "MatMul"))
    assert found["first"] == Cover("placed", "cpu", ("other1",))
    assert found["last"] == Cover("placed", "accelerator", ("other2",))
    tokens = [node("other1", "Exp", "x", "_if_then_branch_token_3_u"), inlined[1]]
    assert covers(study(shipped, tokens), placed("other1", "Exp", "cpu"))["first"].processor == "cpu"


def expanded() -> Study:
    """A Mish that the runtime replaced by the nameless nodes of its function."""
    parts = [node("", "Softplus", "x", "s"), node("", "Tanh", "s", "t"), node("", "Mul", "x t", "y")]
    return study([node("mish", "Mish", "x", "y")], parts)


def test_nameless_nodes_on_one_processor() -> None:
    """Expanded nodes have no names; if all of their ops are on one processor, that is where the function ran."""
    found = covers(expanded(), *(placed("", op, "cpu") for op in ("Softplus", "Tanh", "Mul")))
    assert (found["mish"].fate, found["mish"].processor) == ("placed", "cpu")


def test_nameless_nodes_on_two_processors() -> None:
    """If their processors differ, nothing tells which part weighs what."""
    found = covers(expanded(), placed("", "Softplus", "cpu"), placed("", "Tanh"), placed("", "Mul"))
    assert found["mish"] == UNATTRIBUTED


def test_nameless_nodes_that_were_not_placed() -> None:
    """A part that the placement does not know leaves the whole unattributed."""
    assert covers(expanded(), placed("", "Tanh"), placed("", "Mul"))["mish"] == UNATTRIBUTED


def test_an_empty_placement_attributes_nothing() -> None:
    """A runtime that recorded nothing is not taken to have run everything somewhere."""
    assert set(covers(both(node("a", "Conv", "x w", "y"))).values()) == {UNATTRIBUTED}
