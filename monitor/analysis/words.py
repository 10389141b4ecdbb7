"""How the analysis puts latencies and moments into words, so that all reasons read alike."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from monitor.analysis.circumstances import circumstances
from monitor.analysis.verdict import milliseconds
from monitor.records import CheckResult

_CIRCUMSTANCES: Final = 2  # in one sentence


def explained(what: str, result: CheckResult) -> str:
    """``what`` is wrong with the latency, that the placement is not to blame, and what the board has to say."""
    found = circumstances(result.before, result.after, result.latency)[:_CIRCUMSTANCES]
    intact = result.second_look or "with the placement intact"
    return "; ".join([f"{what}, {intact}" if not result.second_look else f"{what}; {intact}", *(c.text for c in found)])


def beyond_gate(median: float, limit: float) -> str:
    return f"the median of {milliseconds(median)} exceeds its gate of {milliseconds(limit)}"


def percent(ratio: float) -> str:
    return f"{100 * ratio:.2g} %" if ratio < 0.1 else f"{100 * ratio:.0f} %"


def clock(timestamp: float) -> str:
    return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d %H:%M} UTC"
