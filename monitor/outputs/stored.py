"""What the state holds, as records: the queries that the daemon and the commands have in common.

:class:`Reader` is the commands' side. It never writes, so that a question about a running daemon cannot disturb it.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from monitor.outputs import database
from monitor.outputs.database import SqliteError, line
from monitor.records import Baseline, BaselineRequest, CheckResult, Event, Latency, ModelState

EVENTS: Final = 1000
NOTES: Final = 100
REPLAYS: Final = 100
"""Checks whose raw replays are kept, of each model."""

_Record = TypeVar("_Record", bound=Struct)
_Undecodable: Final = (msgspec.MsgspecError, TypeError, UnicodeDecodeError, RecursionError)


class Stored:
    """An open database. Any thread may use it; calls wait for each other.

    ``notes`` collects sentences about what was found damaged, each once and at most 100.
    """

    def __init__(self, connection: sqlite3.Connection, notes: Iterable[str] = ()) -> None:
        self.notes: list[str] = list(notes)
        self._connection = connection
        self._lock = threading.RLock()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def results(self) -> dict[str, CheckResult]:
        """The last check of each model."""
        return self._by_model("results", CheckResult)

    def model_states(self) -> dict[str, ModelState]:
        """What is remembered of each model."""
        return self._by_model("models", ModelState)

    def events(self, limit: int = EVENTS) -> list[Event]:
        """The last ``limit`` events of all models, oldest first; at most 1000 are kept."""
        rows = self._rows("SELECT seq, record FROM events ORDER BY seq DESC LIMIT ?", limit)
        return [event for _, event in self._decoded("events", "seq", rows, Event)][::-1]

    def replays(self, model: str, limit: int = REPLAYS) -> list[Latency]:
        """The raw latencies of the last ``limit`` checks of ``model`` that measured any, oldest first."""
        rows = self._rows("SELECT seq, record FROM replays WHERE model = ? ORDER BY seq DESC LIMIT ?", model, limit)
        return [latency for _, latency in self._decoded("replays", "seq", rows, Latency)][::-1]

    def requests(self, model: str) -> list[tuple[int, BaselineRequest]]:
        """What commands have asked for ``model`` and no saved check has served, oldest first, by number."""
        rows = self._rows("SELECT seq, record FROM requests ORDER BY seq")
        found = self._decoded("requests", "seq", rows, BaselineRequest)
        return [(int(number), request) for number, request in found if request.model == model]

    def _rows(self, query: str, *values: object) -> list[tuple[str | int, bytes]]:
        """Key and record of each row; nothing, and a note, if the file cannot be read."""
        with self._lock:
            try:
                return self._connection.execute(query, values).fetchall()
            except SqliteError as error:
                self._unreadable(error)
                return []

    def _by_model(self, table: str, kind: type[_Record]) -> dict[str, _Record]:
        rows = self._rows(f"SELECT model, record FROM {table} ORDER BY model")
        return {str(model): record for model, record in self._decoded(table, "model", rows, kind)}

    def _decoded(
        self, table: str, column: str, rows: Iterable[tuple[str | int, bytes]], kind: type[_Record]
    ) -> list[tuple[str | int, _Record]]:
        """The rows as records; one that does not decode, as after a change of version, is left out and noted."""
        good: list[tuple[str | int, _Record]] = []
        for key, blob in rows:
            try:
                good.append((key, msgspec.msgpack.decode(blob, type=kind)))
            except _Undecodable as error:
                with contextlib.suppress(*_Undecodable):
                    if kind is ModelState:  # holds what people accepted and no check measures again
                        record, lost = salvaged(blob, kind)
                        good.append((key, record))
                        self._note(f"the state's {table} row {key!r} is readable but for {', '.join(lost)}")
                        continue
                self._undecodable(table, column, key, line(error))
        return good

    def _note(self, note: str) -> None:
        if note not in self.notes and len(self.notes) < NOTES:
            self.notes.append(note)

    def _unreadable(self, error: BaseException) -> None:
        """SQLite could not read rows."""
        self._note(f"the state cannot be read: {line(error)}")

    def _undecodable(self, table: str, column: str, key: str | int, why: str) -> None:
        """A row is no record of its kind."""
        self._note(f"the state's {table} row {key!r} is not readable ({why}) and is left out")


def salvaged(blob: bytes | msgspec.Raw, kind: type[_Record]) -> tuple[_Record, list[str]]:
    """The record without what of it does not decode, as after a change of version, and the names of that.

    Raises what msgspec raises if that leaves no record.
    """
    parts = msgspec.msgpack.decode(blob, type=dict[str, msgspec.Raw])
    lost: list[str] = []
    values: dict[str, object] = {}
    for field in msgspec.structs.fields(kind):
        if (raw := parts.get(field.encode_name)) is None:
            continue
        try:
            values[field.name] = msgspec.msgpack.decode(raw, type=field.type)
        except _Undecodable:
            if field.required:
                raise
            if field.type == tuple[Baseline, ...]:
                values[field.name] = tuple(_each(raw, Baseline, lost))
            else:
                lost.append(field.name)
    return kind(**values), lost


def _each(raw: msgspec.Raw, kind: type[_Record], lost: list[str]) -> Iterator[_Record]:
    """Those of a list's records that can be salvaged; the others are a lost ``kind``."""
    try:
        parts = msgspec.msgpack.decode(raw, type=list[msgspec.Raw])
    except _Undecodable:
        parts = [msgspec.Raw()]
    for part in parts:
        try:
            record, missing = salvaged(part, kind)
        except _Undecodable:
            lost.append(f"a {kind.__name__.lower()}")
        else:
            lost += [f"a {kind.__name__.lower()}'s {name}" for name in missing]
            yield record


class Reader(Stored):
    """The state as a command sees it: of one moment, whatever the daemon writes meanwhile."""

    def __init__(self, directory: Path, config: Path) -> None:
        """Open the state in ``directory``.

        This and all reading raise :class:`UsageError`, naming the configuration file ``config``, if nothing was
        recorded yet or it cannot be read.
        """
        super().__init__(database.attach(directory, config, "ro"))
        self._path, self._config = directory.absolute() / database.FILE, config
        self._connection.execute("BEGIN")

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        # What is not closed keeps the daemon from taking its log back into the file.
        with contextlib.suppress(sqlite3.Error):
            self.close()

    def _unreadable(self, error: BaseException) -> None:
        raise database.refused(self._path, self._config, "ro", error) from error
