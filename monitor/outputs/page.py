"""The status page: what a board engineer sees on a phone, rendered on the server, without a script.

It answers within a minute: which model, which op, since when, why, what to do. A verdict is told by its word and its
colour, never by colour alone.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from monitor.outputs import wording
from monitor.outputs.template import template
from monitor.records import Board, CheckResult, Incident, Latency, ModelState, Placement, Runtime, Standing, Verdict

if TYPE_CHECKING:
    from jinja2 import Template

GROUPS: Final = 5
"""Most op groups shown of one model; the others are counted."""

TEXT_LIMIT: Final = 600
"""Longest reason or remedy in characters."""


class _Card(Struct, frozen=True):
    """One model as the template shows it."""

    name: str
    verdict: Verdict
    result: CheckResult | None
    standing: Standing | None = None
    incidents: tuple[Incident, ...] = ()
    stale: bool = False
    groups: tuple[wording.OpGroup, ...] = ()
    groups_omitted: int = 0

    @property
    def placement(self) -> Placement | None:
        """Where the work ran, unless the last check failed."""
        return self.result.placement if self.result and not self.result.error else None

    @property
    def since(self) -> float | None:
        """When the oldest incident that is still open began; a healthy model has none to tell of."""
        if self.verdict == "healthy":
            return None
        return min((incident.since for incident in self.incidents), default=None)


def render(
    results: Mapping[str, CheckResult],
    board: Board,
    now: float,
    models: Sequence[str],
    states: Mapping[str, ModelState] | None = None,
    standings: Mapping[str, Standing] | None = None,
    stale: Container[str] = (),
) -> str:
    """The page as one HTML document.

    ``models`` are the watched ones in the order to show them, ``results`` the last check of those that had one,
    ``states`` their open incidents (for "since when"), ``standings`` what they are measured against, ``now`` UTC
    seconds since the epoch. ``stale`` are the models whose last check is too long ago, which ``now`` cannot tell: the
    wall clock may have jumped in between.
    """
    known, against = states or {}, standings or {}
    cards = [_card(name, results.get(name), known.get(name), against.get(name), name in stale) for name in models]
    shown = [card.result for card in cards if card.result]
    return _template().render(
        board=board,
        cards=cards,
        now=now,
        summary=_summary(cards),
        runtimes=_distinct([result.runtime for result in shown]),
        simulated=any(result.runtime and result.runtime.target == "simulator" for result in shown),
    )


def _card(
    model: str, result: CheckResult | None, state: ModelState | None, standing: Standing | None, stale: bool
) -> _Card:
    if result is None:
        return _Card(model, "unknown", None, stale=stale)
    verdict: Verdict = "unknown" if result.error else result.verdict
    ops = result.placement.ops if result.placement and not result.error else ()
    groups = wording.group_ops(ops)
    return _Card(
        model,
        verdict,
        result,
        standing,
        state.incidents if state else (),
        stale,
        groups[:GROUPS],
        len(groups[GROUPS:]),
    )


def _slow(latency: Latency) -> str:
    """The slow mode of a check in a few words; empty if one mode describes its replays."""
    share, times = wording.measured(latency.slow_ratio), wording.measured(latency.separation_ratio)
    return f"{wording.percent(share)} slow, {times:.2g} times" if share and times else ""


def _summary(cards: Sequence[_Card]) -> tuple[Verdict | None, str]:
    """The worst verdict, and how many models have each, worst first."""
    counts = {verdict: sum(card.verdict == verdict for card in cards) for verdict in wording.VERDICT_ORDER}
    present = [verdict for verdict, count in counts.items() if count]
    worst: Verdict | None = present[0] if present else None
    return worst, ", ".join(f"{counts[verdict]} {verdict}" for verdict in present) or "no model is configured"


def _distinct(runtimes: Sequence[Runtime | None]) -> tuple[str, ...]:
    """Versions that the board runs; usually one line for all models."""
    return tuple(dict.fromkeys(wording.versions(runtime) for runtime in runtimes if runtime))


def _nodes(names: Sequence[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(wording.clip(name, 80) or "(unnamed)" for name in names[:6]) + more


@cache
def _template() -> Template:
    filters: dict[str, Any] = {
        "by_reason": wording.by_reason,
        "percent": wording.percent,
        "seconds": wording.seconds,
        "flops": wording.flops,
        "rfc3339": wording.rfc3339,
        "ago": wording.ago,
        "target": wording.target,
        "inputs": wording.samples,
        "agreement": wording.agreement,
        "nodes": _nodes,
        "slow": _slow,
        "plural": wording.plural,
        "clip": lambda text: wording.clip(text, TEXT_LIMIT),
        "measured": wording.measured,
    }
    return template("page.html.j2", filters)
