"""A check as a row of a soak's file: replays as plain doubles, the rest as JSON, and what checks share only once.

docs/soak.md has the format. Nothing here knows of SQLite.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from monitor.records import CheckResult

CONTENT: Final = ("model_sha256", "placement", "samples", "runtime", "agreement", "notes", "settings")
"""What seldom changes: it is kept once, however many checks have it."""
_BLANK: Final[dict[str, Any]] = {
    field.name: field.default_factory() if callable(field.default_factory) else field.default
    for field in msgspec.structs.fields(CheckResult)
    if field.name in CONTENT
}


def encoded(value: Any) -> str:
    """A record as JSON."""
    return msgspec.json.encode(value).decode()


def varying(result: CheckResult) -> dict[str, Any]:
    """What is a check's own, without what is absent and what has a place of its own."""
    bare = replace(result, **_BLANK)
    if bare.latency is not None:
        bare = replace(bare, latency=replace(bare.latency, replays_seconds=(), warmups_seconds=()))
    whole = msgspec.to_builtins(bare)
    return {key: value for key, value in whole.items() if key not in CONTENT and value not in (None, "", (), [], {})}


def shared(record: str) -> dict[str, Any]:
    """What was kept under :data:`CONTENT`, as a check's fields."""
    blank = {"model": "", "timestamp": 0.0, "duration_seconds": 0.0, "verdict": "unknown", "reason": ""}
    whole = msgspec.convert(blank | msgspec.json.decode(record), CheckResult)
    return {name: getattr(whole, name) for name in CONTENT}


def restored(record: str, replays: bytes, warmups: bytes, content: Mapping[str, Any]) -> CheckResult:
    """The check that :func:`varying` and :func:`pack` took apart."""
    own = msgspec.json.decode(record)
    if latency := own.get("latency"):
        latency |= {"replays_seconds": unpack(replays), "warmups_seconds": unpack(warmups)}
    return replace(msgspec.convert({"reason": "", **own}, CheckResult), **content)


def pack(seconds: Sequence[float]) -> bytes:
    """Little-endian IEEE 754 doubles, one behind the other."""
    packed = array("d", seconds)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack(blob: bytes) -> tuple[float, ...]:
    """What :func:`pack` packed."""
    packed = array("d", blob)
    if sys.byteorder == "big":
        packed.byteswap()
    return tuple(packed)
