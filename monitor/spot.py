"""A value of the configuration, where it stands, and the readers that several tables need.

A reader takes a :class:`Spot` and gives the checked value, or raises :class:`UsageError` with what to write instead.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from monitor.document import Document, Place, dotted, quote, show
from monitor.errors import UsageError


class Spot(NamedTuple):
    """A value, where it stands, and what a right one looks like."""

    source: Document
    path: Place
    value: Any
    example: str = ""

    def below(self, key: str | int, example: str = "") -> Spot:
        return Spot(self.source, (*self.path, key), self.value[key], example)

    def mistake(self, sentence: str) -> UsageError:
        return self.source.mistake(self.path, sentence)

    def wrong(self, expected: str, write: str | None = None) -> UsageError:
        mend = f"{dotted(self.path[-1:])} = {write or self.example}"
        return self.mistake(f"expected {expected}, got {show(self.value)}; write {mend}")


class Key(NamedTuple):
    """How the value of a key is read, and what a right one looks like."""

    read: Callable[[Spot], Any]
    example: str = ""


def read_mapping(read: Callable[[Spot], Any], example: str) -> Callable[[Spot], dict[str, Any]]:
    """A reader of a table with any names, each value read by ``read``; ``example`` is what a value looks like."""

    def read_all(spot: Spot) -> dict[str, Any]:
        if not isinstance(spot.value, dict):
            raise spot.wrong("a table")
        for key, value in spot.value.items():
            if not key or "\0" in key:
                raise spot.below(key).mistake("expected a name of at least one character, none of them NUL; rename it")
            name = key
            while isinstance(value, dict) and value:  # session = { session.intra_op.allow_spinning = "0" }
                name += f".{next(iter(value))}"
                value = next(iter(value.values()))
            if name != key:
                mend = f"{quote(name)} = {show(value) if isinstance(value, str | int) else example}"
                raise spot.below(key).mistake(f"expected a value, got a table; quote the whole name, {mend}")
        return {key: read(spot.below(key, example)) for key in spot.value}

    return read_all


def read_text(spot: Spot, expected: str = "text in quotes") -> str:
    if not isinstance(spot.value, str):
        raise spot.wrong(expected)
    if "\0" in spot.value:
        raise spot.mistake("holds a NUL character, where C code would cut it off; remove it")
    return spot.value


def read_file(spot: Spot) -> Path:
    if not read_text(spot, "a path"):
        raise spot.wrong("a path")
    return spot.source.file.absolute().parent / str(spot.value)
