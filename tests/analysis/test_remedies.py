"""Reasons are the provider's own, and remedies can be acted on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from monitor.analysis.remedies import ESCALATE, NO_REASON, Explainer, free_dimensions
from monitor.records import Fault, Rejection, RejectionKind, Tensor
from tests import models
from tests.analysis.evidence import facts, node, study

FIXED = (Tensor("x", "tensor(float)", (1, 3)),)
SHAPE = Rejection("conv", "Conv", "Cannot get shape", "dynamic_shape")


def explained(
    name: str,
    *rejections: Rejection,
    inputs: tuple[Tensor, ...] = FIXED,
    via: tuple[str, ...] = (),
    op_type: str = "Conv",
) -> tuple[str, str]:
    """Reason and remedy for one node."""
    return Explainer(facts(rejections=rejections, inputs=inputs), None).explain((name, *via), op_type)


def test_a_reason_never_seen_before() -> None:
    """It is passed on verbatim; the remedy names the op, what it can be made of, and whom to ask."""
    reason, remedy = explained("selu", Rejection("selu", "Selu", "no Selu on Sundays"))
    assert reason == "no Selu on Sundays"
    assert remedy == (f"replace Selu by Elu and Mul, or pin an SDK that supports it; if it should run, {ESCALATE}")


@pytest.mark.parametrize(
    ("kind", "begins"),
    [
        ("not_constant", "bake the input of this CumSum that the reason names into the model as an initializer"),
        ("op_missing", "replace CumSum by MatMul with a triangular constant, or split the model"),
        ("attribute", "export this CumSum with what the reason allows, or replace CumSum by"),
        ("dtype", "cast around this CumSum to a type that it supports, or quantize it"),
        ("rank", "put a Reshape before and after this CumSum"),
        ("backend", "quantize this CumSum with its neighbours, or replace CumSum by"),
        ("by_design", "nothing: the session is configured so"),
    ],
)
def test_each_kind_of_refusal_has_its_action(kind: RejectionKind, begins: str) -> None:
    """What to do follows from why."""
    _, remedy = explained("c", Rejection("c", "CumSum", "why", kind))
    assert remedy.startswith(begins)


def test_an_op_without_a_known_equivalent() -> None:
    """No equivalent is invented."""
    _, remedy = explained("d", Rejection("d", "Det", "why", "op_missing"))
    assert remedy == "replace Det by ops that it supports, or split the model so that it stands at an edge"


def test_a_reason_is_found_over_the_layouts_suffix_and_the_fused_name() -> None:
    """A node is known to the provider by its suffixed name, or by that of the fused node that does its work."""
    assert explained("a", Rejection("a_token_4", "Conv", "no"))[0] == "no"
    assert explained("a", Rejection("a/Fused", "Gemm", "no"), via=("a/Fused",))[0] == "no"


def test_expanded_nodes_have_the_reason_of_their_op() -> None:
    """A nameless refusal belongs to the nameless nodes of that op only."""
    nameless = Rejection("", "Mish", "no such op")
    assert explained("mish", nameless, via=("",), op_type="Mish")[0] == "no such op"
    assert explained("mish", nameless, op_type="Mish")[0] == NO_REASON


def test_no_reason_is_said_to_be_none() -> None:
    """Where the provider is silent nothing is made up."""
    assert explained("a", SHAPE) == (NO_REASON, ESCALATE)


def test_a_fault_of_the_whole_session_explains_every_node() -> None:
    """If the accelerator did not come up, that is why, with its own mend; a mere warning explains nothing."""
    fault = Fault("accelerator_unavailable", "SetupBackend failed", "check soc_model")
    session = facts(rejections=(SHAPE,), faults=(Fault("other", "noise"), fault))
    assert Explainer(session, None).explain(("conv",), "Conv") == ("SetupBackend failed", "check soc_model")
    session = facts(rejections=(SHAPE,), faults=(Fault("option_ignored", "typo", "correct it"),))
    assert Explainer(session, None).explain(("conv",), "Conv")[0] == "Cannot get shape"


def test_a_node_in_a_refused_control_node() -> None:
    """A body on the CPU is there because of the control node around it, at any depth, whatever the node does."""
    inner = [
        node("outer", "Loop", "n c x", "y"),
        node("choice", "If", "c", "v", "outer/body"),
        node("neg", "Neg", "v", "w", "choice/then_branch"),
    ]
    refused = Rejection("outer", "Loop", "Loop is not supported")
    explainer = Explainer(facts(rejections=(refused,), inputs=FIXED), study(inner, inner))
    reason, remedy = explainer.explain(("neg",), "Neg")
    assert reason == "inside Loop outer, which was refused: Loop is not supported"
    assert remedy.startswith("make what this Loop decides constant: ")


def test_named_free_dimensions() -> None:
    """The remedy names each dimension once, as configuration and as an option to try."""
    inputs = (Tensor("ids", "tensor(int64)", ("batch", "length")), Tensor("mask", "tensor(int64)", ("batch", "length")))
    _, remedy = explained("conv", SHAPE, inputs=inputs)
    assert remedy == (
        'fix the free dimensions to the application\'s sizes: dims = { "batch" = N, "length" = N } '
        "(try: --dim batch=N --dim length=N)"
    )


@pytest.mark.parametrize(
    ("shape", "axes", "sizes"),
    [
        ((None, 3, "?", "?"), "0, 2, 3", "[N0, 3, N2, N3]"),
        ((1, "?"), "1", "[1, N1]"),
        ((1, None), "1", "[1, N1]"),
        (("a", "a"), "0, 1", "[N0, N1]"),
    ],
)
def test_dimensions_without_a_usable_name(shape: tuple[int | str | None, ...], axes: str, sizes: str) -> None:
    """Where an override cannot address a dimension the file has to change, and the command is given."""
    advice = free_dimensions((Tensor("x", "tensor(float)", shape),)) or ""
    assert advice.startswith(f"no usable name for dimension {axes} of input x: fix the file itself: python -c ")
    assert f"{{'x': {sizes}}}" in advice


def test_the_command_that_fixes_a_file_works(tmp_path: Path) -> None:
    """Run as it is told, with sizes put in, it gives every dimension its own, equal names notwithstanding."""
    nodes = [onnx.helper.make_node("Add", ["x", "y"], ["z"], "add")]
    inputs = [models.value("x", [None, 3, "?", "?"]), models.value("y", ["?"])]
    models.saved(models.model(models.graph(nodes, inputs, [models.value("z", None)])), tmp_path, "in.onnx")
    signature = (Tensor("x", "tensor(float)", (None, 3, "?", "?")), Tensor("y", "tensor(float)", ("?",)))
    command = (free_dimensions(signature) or "").partition("fix the file itself: ")[2]
    for placeholder, size in (
        ("IN", "in.onnx"),
        ("OUT", "out.onnx"),
        ("N0]", "192]"),
        ("N0", "1"),
        ("N2", "48"),
        ("N3", "192"),
    ):
        command = command.replace(placeholder, size)
    subprocess.run(command.replace("python", sys.executable, 1), shell=True, check=True, cwd=tmp_path)
    fixed = onnx.load(str(tmp_path / "out.onnx")).graph.input
    sizes = [[d.dim_value for d in value.type.tensor_type.shape.dim] for value in fixed]
    assert sizes == [[1, 3, 48, 192], [192]]


def test_a_signature_with_both_kinds() -> None:
    """Named and unnamed dimensions each get their own advice."""
    advice = free_dimensions((Tensor("x", "tensor(float)", ("batch", None)),)) or ""
    assert '"batch" = N' in advice
    assert "{'x': [N0, N1]}" in advice


def test_a_fixed_signature_has_nothing_to_fix() -> None:
    """Without free dimensions the shape depends on data, or on a condition, and that is said."""
    assert free_dimensions(FIXED) is None
    assert explained("conv", SHAPE)[1].startswith("its shape depends on data: ")
    _, remedy = explained("choice", Rejection("choice", "If", "Cannot get shape", "dynamic_shape"), op_type="If")
    assert remedy.startswith("make what this If decides constant: ")
