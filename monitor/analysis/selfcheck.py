"""The books' own audit: the placement and the study must speak of the same arithmetic.

An arithmetic node that was placed but is absent from the study's graph, or the reverse, means that the runtime was
given another graph than the one studied. It is told, so that nobody trusts a share that stands on it.
"""

from __future__ import annotations

from monitor.analysis.cover import CONTEXT, control_of, strip_token
from monitor.analysis.flops import kind
from monitor.records import Placed, Study

_NAMED = 3


def selfcheck(study: Study, placement: tuple[Placed, ...]) -> tuple[str, ...]:
    """Sentences about arithmetic nodes that only one side knows; none if the books agree."""
    if any(node.op_type == CONTEXT for node in study.partitioned):
        return ()  # compiled elsewhere: loading may rewrite what was left over, and that graph is not studied
    known = {node.name for node in (*study.nodes, *study.partitioned)}
    placed = {strip_token(p.name) for p in placement if p.name}
    whole = {strip_token(p.name) for p in placement if p.processor == "accelerator"}
    scopes = {node.name: node.scope for node in (*study.nodes, *study.partitioned)}

    def inside(scope: str) -> bool:
        while scope:
            control = control_of(scope)
            if strip_token(control) in whole:
                return True
            scope = scopes.get(control, "")
        return False

    strangers = [
        p.name
        for p in placement
        if p.name and strip_token(p.name) not in known and kind(p.op_type, p.domain) == "arithmetic"
    ]
    missing = [
        node.name
        for node in study.partitioned
        if node.name
        and strip_token(node.name) not in placed
        and kind(node.op_type, node.domain) == "arithmetic"
        and not inside(node.scope)
    ]
    notes = []
    if strangers:
        notes.append(f"self-check: {_some(strangers)} placed, but not in the studied graph")
    if missing:
        notes.append(f"self-check: {_some(missing)} in the studied graph, but not placed")
    return tuple(notes)


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{rest}"
