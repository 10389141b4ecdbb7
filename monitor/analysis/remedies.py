"""Why an op did not run on the accelerator, in the provider's own words, and what to do about it.

A reason is passed on verbatim. A remedy is an action an engineer can take; where the reason is of no known kind, it
says to escalate with this evidence rather than guess.
"""

from __future__ import annotations

import re

from monitor.analysis.cover import CONTEXT, control_of, strip_token
from monitor.records import Rejection, RejectionKind, SessionFacts, Study, Tensor

NO_REASON = "the execution provider gave no reason"
COMPILED = "it was left out of the context when the model was compiled"
RECOMPILE = (
    "audit the model that the context was compiled from for the provider's reason, and compile again; "
    "ModelCompiler compiles at ORT_DISABLE_ALL unless told otherwise: try ORT_ENABLE_BASIC"
)
_WHOLE_SESSION = ("not_on_hardware", "accelerator_unavailable", "context_mismatch")
# What the operator's own ONNX function body, or its definition, is made of.
INSTEAD = {
    "Acosh": "Log, Sqrt and Mul",
    "Celu": "Elu and Mul",
    "Cosh": "Exp, Add and Mul",
    "CumSum": "MatMul with a triangular constant",
    "Einsum": "Transpose, Reshape and MatMul",
    "Erf": "Tanh (the tanh form of Gelu)",
    "GroupNormalization": "Reshape and InstanceNormalization",
    "GRU": "its cell's MatMul, Sigmoid and Tanh, unrolled",
    "Hardmax": "ArgMax and OneHot",
    "HardSwish": "HardSigmoid and Mul",
    "LayerNormalization": "ReduceMean, Sub, Mul, Sqrt and Div",
    "LSTM": "its cell's MatMul, Sigmoid and Tanh, unrolled",
    "Mish": "Softplus, Tanh and Mul",
    "Selu": "Elu and Mul",
    "Shrink": "Where, Less and Sub",
    "Sinh": "Exp, Sub and Mul",
    "Softplus": "Exp, Add and Log",
    "Softsign": "Abs, Add and Div",
    "ThresholdedRelu": "Greater and Where",
    "Trilu": "Mul with a constant mask",
}
ESCALATE = "report op, reason and versions to the accelerator's vendor"


class Explainer:
    """Looks up the reason for a node and derives the remedy, for one session."""

    def __init__(self, facts: SessionFacts, study: Study | None) -> None:
        self._by_name: dict[str, Rejection] = {}
        self._nameless: dict[str, Rejection] = {}
        for rejection in facts.rejections:
            if rejection.node:
                self._by_name.setdefault(strip_token(rejection.node), rejection)
            else:
                self._nameless.setdefault(rejection.op_type, rejection)
        self._fault = next((f for f in facts.faults if f.kind in _WHOLE_SESSION), None)
        self._compiled = any(placed.op_type == CONTEXT for placed in facts.placement)
        self._free = free_dimensions(facts.inputs)
        self._scopes = {node.name: node.scope for node in study.nodes} if study else {}

    def explain(self, names: tuple[str, ...], op_type: str) -> tuple[str, str]:
        """Reason and remedy for the node known by any of ``names``, the model's own first."""
        if self._fault is not None:
            return self._fault.message, self._fault.mend or ESCALATE
        rejection = next((self._by_name[n] for name in names if (n := strip_token(name)) in self._by_name), None)
        if rejection is None and "" in names:
            rejection = self._nameless.get(op_type)
        if rejection is not None:
            return rejection.reason, self._remedy(rejection)
        scope = self._scopes.get(names[0], "")
        while scope:
            control = control_of(scope)
            outer = self._by_name.get(control)
            if outer is not None:
                reason = f"inside {outer.op_type} {control}, which was refused: {outer.reason}"
                return reason, self._remedy(outer)
            scope = self._scopes.get(control, "")
        return (COMPILED, RECOMPILE) if self._compiled else (NO_REASON, ESCALATE)

    def _remedy(self, rejection: Rejection) -> str:
        if self._free and rejection.kind == "dynamic_shape":
            return self._free
        if self._free:  # what it says of other ops can change then: fusions need shapes
            return f"{self._free}; then audit again"
        if rejection.op_type in ("If", "Loop", "Scan"):
            return (
                f"make what this {rejection.op_type} decides constant: bake the input that decides it "
                "into the model as an initializer"
            )
        if rejection.kind == "dynamic_shape":
            return "its shape depends on data: export the model so that shapes are constant, or split it here"
        return _by_kind(rejection.kind, rejection.op_type)


def _by_kind(kind: RejectionKind, op_type: str) -> str:
    instead = INSTEAD.get(op_type)
    replace = f"replace {op_type} by {instead}" if instead else f"replace {op_type} by ops that it supports"
    match kind:
        case "not_constant":
            return f"bake the input of this {op_type} that the reason names into the model as an initializer"
        case "op_missing":
            return f"{replace}, or split the model so that it stands at an edge"
        case "attribute":
            return f"export this {op_type} with what the reason allows, or {replace}"
        case "dtype":
            return f"cast around this {op_type} to a type that it supports, or quantize it"
        case "rank":
            return f"put a Reshape before and after this {op_type}, so that it has fewer dimensions"
        case "by_design":
            return "nothing: the session is configured so; the option stands in the reason"
        case "backend":
            quantize = f"quantize this {op_type} with its neighbours, or {replace}"
            return f"{quantize}; it may run on another SoC or SDK (npumon preflight): if it should here, {ESCALATE}"
        case _:
            return f"{replace}, or pin an SDK that supports it; if it should run, {ESCALATE}"


def free_dimensions(inputs: tuple[Tensor, ...]) -> str | None:
    """How to fix the dimensions that are still free in the session's signature; ``None`` if none is.

    Names that an override can address are fixed by it. For others only a changed file helps, and onnxruntime's own tool
    for that gives all dimensions of one name, such as ``?``, one size (measured); hence a line of Python.
    """
    named: dict[str, None] = {}
    shapes: list[str] = []
    unusable: list[str] = []
    for tensor in inputs:
        names = [d for d in tensor.shape if isinstance(d, str)]
        axes = [
            axis
            for axis, d in enumerate(tensor.shape)
            if d is None or (isinstance(d, str) and (not _usable(d) or names.count(d) > 1))
        ]
        named.update(dict.fromkeys(d for d in names if _usable(d) and names.count(d) == 1))
        if axes:
            unusable.append(f"{', '.join(str(axis) for axis in axes)} of input {tensor.name}")
            sizes = (str(d) if isinstance(d, int) else f"N{axis}" for axis, d in enumerate(tensor.shape))
            shapes.append(f"{tensor.name!r}: [{', '.join(sizes)}]")
    parts = []
    if named:
        pairs = ", ".join(f'"{name}" = N' for name in named)
        flags = " ".join(f"--dim {name}=N" for name in named)
        parts.append(f"fix the free dimensions to the application's sizes: dims = {{ {pairs} }} (try: {flags})")
    if shapes:
        parts.append(f"no usable name for dimension {'; '.join(unusable)}: fix the file itself: {_fix(shapes)}")
    return "; ".join(parts) or None


def _fix(shapes: list[str]) -> str:
    """A command that gives the inputs of the model file IN these shapes, in a new file OUT."""
    return (
        "python -c \"import onnx; m = onnx.load('IN'); "
        "i = {v.name: v.type.tensor_type.shape.dim for v in m.graph.input}; "
        f"[setattr(d, 'dim_value', n) for k, s in {{{', '.join(shapes)}}}.items() for d, n in zip(i[k], s)]; "
        "onnx.save(m, 'OUT')\""
    )


def _usable(name: str) -> bool:
    """A dimension name that an override can address; exporters also write ``?`` for several unrelated ones."""
    return bool(re.search(r"\w", name))
