"""What the tables are made of: one counting rule, with its convention in words and where that comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from monitor.analysis.flops import elementwise as ew
from monitor.analysis.flops.call import Call, Kind

Source = Literal["primitive", "function body", "documented formula", "convention", "as the float op"]


@dataclass(frozen=True, slots=True)
class Rule:
    """How one op is counted. ``count`` may raise what a formula raises on shapes that do not fit it."""

    kind: Kind
    convention: str
    source: Source
    count: Callable[[Call], int]


def arithmetic(count: Callable[[Call], int], convention: str, source: Source) -> Rule:
    """A rule with a formula of its own."""
    return Rule("arithmetic", convention, source, count)


def per_element(steps: str, source: Source, note: str = "") -> Rule:
    """The primitives and spelled ops in ``steps``, once per element of the first output."""
    flops = ew.spell(steps)
    return Rule("arithmetic", f"{flops} per output element: {steps}{note}", source, lambda call: flops * call.elements)


def each(names: str, rule: Rule) -> dict[str, Rule]:
    """The same rule for several ops."""
    return dict.fromkeys(names.split(), rule)


def unknown(names: str, why: str) -> dict[str, str]:
    """Ops that are left without a rule on purpose."""
    return dict.fromkeys(names.split(), why)


def movement(names: str, why: str) -> dict[str, Rule]:
    """Ops that compute nothing: 0 whatever their shapes."""
    return each(names, Rule("movement", why, "convention", lambda call: 0))


def control(names: str) -> dict[str, Rule]:
    """Ops whose body's nodes are counted in their own right."""
    why = "0; the nodes of the body count each time they run"
    return each(names, Rule("control", why, "convention", lambda call: 0))
