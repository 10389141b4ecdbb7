"""The event log: one JSON object a line with the contract's keys, which alerting and fleets parse.

What was not measured is left out. ``event.schema.json`` beside this file is the contract in JSON Schema.
"""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

from monitor.outputs.log import LINE_LIMIT
from monitor.outputs.wording import clip, rfc3339
from monitor.records import Event

TEXT_LIMIT: Final = 500
"""Longest single string in characters: an execution provider's reasons can be pages long."""

_KEYS = (
    *("timestamp", "level", "event", "id", "model", "model_sha256", "cause", "reason"),
    *("npu_flops_ratio", "median_seconds", "cv_ratio", "slow_ratio", "separation_ratio", "baseline_seconds"),
    *("ops", "samples", "runtime", "board", "readings", "production", "error"),
)


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) that every event meets."""
    document: dict[str, Any] = json.loads(Path(__file__).with_name("event.schema.json").read_text(encoding="utf-8"))
    return document


def to_json(event: Event) -> dict[str, Any]:
    """``event`` with exactly the contract's keys, worst ops first as given; it fits one line of the log."""
    fields = msgspec.to_builtins(event)
    fields["timestamp"] = rfc3339(event.timestamp)
    document: dict[str, Any] = _present({key: fields[key] for key in _KEYS})
    ops = document.pop("ops", [])
    if not ops:
        return document
    room = LINE_LIMIT - len(json.dumps(document)) - len(', "ops": [], "ops_omitted": 1000000')
    kept = _fitting(ops, room)
    document["ops"] = kept
    if omitted := event.ops_omitted + len(ops) - len(kept):
        document["ops_omitted"] = omitted
    return {key: document[key] for key in (*_KEYS, "ops_omitted") if key in document}


def emit(event: Event, logger: Any) -> None:
    """Write ``event`` as one line of ``logger`` (structlog's interface), at the event's own level and time."""
    fields = to_json(event)
    level = fields.pop("level")
    getattr(logger, level)(fields.pop("event"), **fields)


def _fitting(ops: list[dict[str, Any]], room: int) -> list[dict[str, Any]]:
    """The first ``ops`` whose JSON fits in ``room`` bytes, at least one."""
    kept: list[dict[str, Any]] = []
    for op in ops:
        room -= len(json.dumps(op)) + 2
        if room < 0 and kept:
            break
        kept.append(op)
    return kept


def _present(value: Any) -> Any:
    """``value`` without what was not measured (``None`` and what is no number), its strings bounded and valid UTF-8."""
    if isinstance(value, dict):
        return {key: _present(item) for key, item in value.items() if not _absent(item)}
    if isinstance(value, list | tuple):
        return [_present(item) for item in value]
    if isinstance(value, str):
        return clip(value.encode("utf-8", "replace").decode(), TEXT_LIMIT)
    return value


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))
