"""One execution of one node, as the counting rules see it.

The runtime's profile lists the shapes of the inputs that are present and skips the missing optional ones, while rules
speak of "input 2, the bias". This module maps one to the other, and turns everything that a rule needs but the record
does not hold into one exception, so that a rule can be written as the plain formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, NamedTuple

from monitor.records import Node, Shape

Kind = Literal["arithmetic", "movement", "control", "unknown"]


class UncountableError(Exception):
    """The shapes and attributes at hand do not tell what the node costs."""


@dataclass(frozen=True, slots=True)
class Dimensions:
    """The shapes on one side of a node by formal position; a missing optional value has no entry."""

    shapes: dict[int, Shape | None]

    @classmethod
    def of(cls, names: Sequence[str], shapes: Sequence[Shape | None]) -> Dimensions:
        """Align ``shapes`` of the present values with ``names``, in which ``""`` marks a missing one.

        If their numbers differ no alignment can be trusted, so every shape is unknown then.
        """
        positions = [position for position, name in enumerate(names) if name]
        if len(positions) != len(shapes):
            return cls(dict.fromkeys(positions))
        known = [None if shape is None or min(shape, default=0) < 0 else shape for shape in shapes]
        return cls(dict(zip(positions, known, strict=True)))

    @property
    def empty(self) -> bool:
        """Whether all these values are known to hold no element."""
        return bool(self.shapes) and all(shape is not None and 0 in shape for shape in self.shapes.values())

    def has(self, position: int) -> bool:
        """Whether the optional value at ``position`` is given."""
        return position in self.shapes

    def __getitem__(self, position: int) -> Shape:
        shape = self.shapes.get(position)
        if shape is None:
            raise UncountableError(f"no shape at position {position}")
        return shape

    def __len__(self) -> int:
        return len(self.shapes)


class Call(NamedTuple):
    """A node with the actual shapes of one execution."""

    node: Node
    inputs: Dimensions
    outputs: Dimensions

    @property
    def elements(self) -> int:
        """Elements of the first output."""
        return prod(self.outputs[0])

    def integer(self, name: str, default: int | None = None) -> int:
        """A whole-number attribute; without ``default`` it is required."""
        value = self.node.attributes.get(name, default)
        if not isinstance(value, int):
            raise UncountableError(f"attribute {name} is {value!r}")
        return value

    def number(self, name: str, default: float) -> float:
        """A numeric attribute."""
        value = self.node.attributes.get(name, default)
        if not isinstance(value, int | float):
            raise UncountableError(f"attribute {name} is {value!r}")
        return value

    def text(self, name: str, default: str) -> str:
        """A string attribute."""
        value = self.node.attributes.get(name, default)
        if not isinstance(value, str):
            raise UncountableError(f"attribute {name} is {value!r}")
        return value

    def items(self, name: str) -> tuple[object, ...]:
        """A list attribute, empty if absent."""
        value = self.node.attributes.get(name, ())
        if not isinstance(value, list | tuple):
            raise UncountableError(f"attribute {name} is {value!r}")
        return tuple(value)

    def integers(self, name: str) -> tuple[int, ...]:
        """A list-of-integers attribute, empty if absent."""
        values = self.items(name)
        if not all(isinstance(value, int) for value in values):
            raise UncountableError(f"attribute {name} is {values!r}")
        return tuple(value for value in values if isinstance(value, int))
