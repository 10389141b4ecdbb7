"""What a model computes: its nodes and how often each ran, with actual shapes."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from monitor.records.vocabulary import Shape


class Node(Struct, frozen=True, omit_defaults=True):
    """One ONNX node, reduced to what FLOP counting and joining need.

    ``scope`` names the graph that holds it: ``""`` for the main graph, else ``"<control node>/<attribute>"`` of the
    innermost body (node names are unique over all scopes). ``attributes`` keeps numbers, strings and short lists; a
    body is kept as the list of its outputs, tensors are dropped. A missing optional input is ``""`` in ``inputs``.
    """

    name: str
    op_type: str
    domain: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    scope: str = ""
    attributes: dict[str, Any] = {}


class Execution(Struct, frozen=True):
    """How often ``nodes[node]`` of a study ran in one inference with these actual shapes.

    ``inputs`` lists the shapes of the inputs that are present, in order (missing optional ones are skipped, as in the
    runtime's profile); ``None`` stands for a value without a shape (sequence, optional).
    """

    node: int
    inputs: tuple[Shape | None, ...]
    outputs: tuple[Shape | None, ...]
    count: int = 1


class Study(Struct, frozen=True):
    """What one model computes, established once on the CPU: the ground for every FLOP figure.

    ``nodes`` is the model as shipped (functions inlined, names unique), ``runs`` the executions of one inference per
    sample, ``partitioned`` the graph that the runtime hands to the execution providers (saved at the basic
    optimization level), ``constants`` the values that became initializers in it, ``inputs`` and ``outputs`` the main
    graph's. ``assumed`` are the sizes chosen for free dimensions of synthesized inputs.
    """

    model_sha256: str
    dims: dict[str, int]
    samples: Literal["files", "synthetic"]
    assumed: dict[str, int]
    nodes: tuple[Node, ...]
    runs: tuple[tuple[Execution, ...], ...]
    partitioned: tuple[Node, ...]
    constants: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    onnxruntime: str
    notes: tuple[str, ...] = ()
