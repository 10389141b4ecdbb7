"""What is remembered over restarts and power cuts: one SQLite file in the state directory.

An incident that was told must not be told again after a restart, and none may be forgotten, so a check's result, its
model's state and its events are one transaction, on the disk before :meth:`State.save_check` returns (WAL,
``synchronous=FULL``). What could not be written, as on a full disk, stays owed and goes with the next one that can.

The file is never trusted: a damaged one is set aside and a new one started with what can be read of it, a row that
does not decode is dropped, and either is said in :attr:`State.notes`. Records are msgpack.

Between an event on the disk and its line in the log there is a moment in which the power may go. So what is saved is
marked as untold until :meth:`State.mark_told`, and the next life tells it: in the log an event may then stand twice, in
the same words, but none is missing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from monitor import wire
from monitor.errors import EXIT_UNMEASURED, NpumonError, PassingError, UsageError
from monitor.outputs import database
from monitor.outputs.database import FILE, SqliteError, Unusable, line
from monitor.outputs.stored import EVENTS, REPLAYS, Stored
from monitor.records import BaselineRequest, CheckResult, Event, ModelState, Study

STUDIES: Final = 64
REQUESTS: Final = 64
"""Requests that may wait; the daemon serves a model's at its next check."""
STUDY_LIMIT: Final = wire.FRAME_LIMIT
"""A study that unpacks to more bytes than the pipe could have brought is damage."""


class StateWriteError(NpumonError):
    """The state could not be written, mostly because the disk is full. The daemon says so and goes on."""

    exit_code = EXIT_UNMEASURED


class _Owed(Struct, frozen=True):
    """The last check of a model that is not on the disk yet, and since the last one that is, all events and requests.

    ``served`` numbers the requests; the last ``untold`` of the events are not in the log yet.
    """

    result: CheckResult
    state: ModelState
    events: tuple[Event, ...]
    served: tuple[int, ...]
    untold: int


def study_key(model_sha256: str, dims: Mapping[str, int], samples: str, *others: str) -> str:
    """The key of a study: all that shapes it. ``samples`` is their digest, ``others`` such as versions."""
    return hashlib.sha256(msgspec.json.encode([model_sha256, sorted(dims.items()), samples, *others])).hexdigest()


class State(Stored):
    """The database as its daemon has it open."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        notes: Iterable[str] = (),
        path: Path | None = None,
        in_memory: bool = False,
    ) -> None:
        """``path`` is the file of a daemon, which opens it anew where it must; a command has none."""
        super().__init__(connection, notes)
        self._path = path
        self._in_memory = in_memory
        self._sound = not in_memory
        self._place = None if in_memory else _place_of(path)
        self._owed: dict[str, _Owed] = {}
        self._untold = False

    @classmethod
    def open(cls, directory: Path, config: Path) -> State:
        """The state in ``directory``, which is made (0700) if need be, as is the file (0600).

        What is there can be read but not written on a disk that is full, read-only or failing: then it is used, what
        is new stays owed, and a note says so. If nothing was recorded there, raises :class:`PassingError`, and
        :class:`UsageError` if it cannot be written for another reason; both name the configuration file ``config``.
        """
        path = directory / FILE
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            return cls(*_opened(path), path)
        except (OSError, sqlite3.Error) as error:
            why = (isinstance(error, OSError) and error.strerror) or line(error)
            if isinstance(error, FileExistsError):
                why = os.strerror(errno.ENOTDIR)
            if database.may_pass(error) and (remembered := database.in_memory(path)) is not None:
                note = f"{path} cannot be written: {why}; what it holds is used, and what is new waits until it can be"
                return cls(remembered, [note], path, in_memory=True)
            refused = PassingError if database.may_pass(error) else UsageError
            raise refused(
                f"{config}: monitor.state: cannot write {directory}: {why}; "
                "free it for this user or name another directory"
            ) from error

    @classmethod
    def attach(cls, directory: Path, config: Path) -> State:
        """The state in ``directory`` for a command beside the daemon, which may run; it must be there and sound.

        Raises :class:`UsageError`, naming the configuration file ``config``, if it cannot be used or written.
        """
        return cls(database.attach(directory, config, "rw"))

    def close(self) -> None:
        """Write what is owed, if that works now, and close the file."""
        with self._lock:
            with contextlib.suppress(StateWriteError):
                self._settle()
            self._connection.close()

    # ---------------------------------------------------------------------------------------------- checks

    def save_check(
        self, result: CheckResult, state: ModelState, events: Iterable[Event] = (), served: Iterable[int] = ()
    ) -> None:
        """Put a check on the disk: its result, replays, the model's state and the events, all or nothing.

        The requests of these numbers, which ``state`` is the answer to, are gone with it.

        Raises :class:`StateWriteError` if that fails; then this check is owed, and the next call writes it too.
        """
        with self._lock:
            earlier = self._owed.get(result.model)
            fresh = tuple(events)
            listed = (*(earlier.events if earlier else ()), *fresh)
            done = (*(earlier.served if earlier else ()), *served)
            untold = len(fresh) + (earlier.untold if earlier else 0)
            self._owed[result.model] = _Owed(result, state, listed[-EVENTS:], done, min(untold, EVENTS))
            self._settle()

    def untold(self) -> list[Event]:
        """What an earlier life saved and may not have told, oldest first."""
        rows = self._rows("SELECT seq, record FROM events WHERE seq IN untold ORDER BY seq")
        self._untold = bool(rows)
        return [event for _, event in self._decoded("events", "seq", rows, Event)]

    def mark_told(self) -> None:
        """Note that all events saved so far are in the log. Where that fails, the next call does it."""
        with self._lock:
            self._owed = {model: replace(owed, untold=0) for model, owed in self._owed.items()}
            if self._untold:
                with contextlib.suppress(StateWriteError):
                    with self._transaction() as connection:
                        connection.execute("DELETE FROM untold")
                    self._untold = False

    def _settle(self) -> None:
        """Write what is owed; a file that turns out to be damaged is replaced. Raises :class:`StateWriteError`."""
        if not self._owed:
            return
        if self._sound and _place_of(self._path) != self._place:
            self._detach()
        if not self._sound:
            self._reopen()
        try:
            self._write()
        except StateWriteError as error:
            if self._path is None or error.__cause__ is None or not database.damaged(error.__cause__):
                raise
            self._sound = False
            self._reopen()
            self._write()

    def _detach(self) -> None:
        """The file was deleted or replaced: what SQLite wrote to the old one, nobody would find."""
        self._note(f"{self._path} is not the file that was opened; what that one held is taken along")
        self._sound = False
        with contextlib.suppress(*SqliteError):
            self._connection, self._in_memory = database.detached(self._connection), True

    def _reopen(self) -> None:
        """Open the file anew, or another one in its place. Raises :class:`StateWriteError`."""
        assert self._path is not None
        if not self._in_memory:
            # Before the next one is made: with its last connection SQLite removes the log by name, whosever it is.
            self._connection.close()
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            connection, notes = _opened(self._path)
            with contextlib.ExitStack() as failing:
                failing.callback(connection.close)
                if self._in_memory:
                    database.carry(self._connection, connection)
                failing.pop_all()
        except (OSError, sqlite3.Error) as error:
            why = (isinstance(error, OSError) and error.strerror) or line(error)
            raise StateWriteError(f"the state cannot be written: {why}") from error
        self._connection.close()
        # What was told meanwhile was marked in memory only.
        self._untold = self._untold or self._in_memory
        self._connection, self._sound, self._in_memory = connection, True, False
        self._place = _place_of(self._path)
        for note in notes:
            self._note(note)

    def _write(self) -> None:
        with self._transaction() as connection:
            for model, owed in self._owed.items():
                connection.execute("REPLACE INTO results VALUES (?, ?)", (model, _pack(owed.result)))
                connection.execute("REPLACE INTO models VALUES (?, ?)", (model, _pack(owed.state)))
                for number, event in enumerate(owed.events, owed.untold - len(owed.events)):
                    added = connection.execute("INSERT INTO events (record) VALUES (?)", (_pack(event),))
                    if number >= 0:
                        connection.execute("INSERT OR IGNORE INTO untold VALUES (?)", (added.lastrowid,))
                connection.executemany("DELETE FROM requests WHERE seq = ?", [(number,) for number in owed.served])
                if owed.result.latency is not None:
                    row = (model, _pack(owed.result.latency))
                    connection.execute("INSERT INTO replays (model, record) VALUES (?, ?)", row)
                connection.execute(
                    "DELETE FROM replays WHERE model = ?1 AND seq <= "
                    "(SELECT seq FROM replays WHERE model = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
                    (model, REPLAYS),
                )
            connection.execute("DELETE FROM events WHERE seq <= (SELECT max(seq) FROM events) - ?", (EVENTS,))
        self._untold = self._untold or any(owed.untold for owed in self._owed.values())
        self._owed.clear()

    def forget(self, model: str) -> None:
        """Drop a model that is no longer configured; its events stay. Raises :class:`StateWriteError`."""
        with self._lock:
            self._owed.pop(model, None)
            asked = self.requests(model)
            with self._transaction() as connection:
                for table in ("results", "models", "replays"):
                    connection.execute(f"DELETE FROM {table} WHERE model = ?", (model,))
                connection.executemany("DELETE FROM requests WHERE seq = ?", [(number,) for number, _ in asked])

    # -------------------------------------------------------------------------------------------- requests

    def request(self, request: BaselineRequest) -> None:
        """Leave a request for the daemon; the oldest make room at 64. Raises :class:`StateWriteError`."""
        with self._transaction() as connection:
            connection.execute("INSERT INTO requests (record) VALUES (?)", (_pack(request),))
            connection.execute(
                "DELETE FROM requests WHERE seq NOT IN (SELECT seq FROM requests ORDER BY seq DESC LIMIT ?)",
                (REQUESTS,),
            )

    def requests(self, model: str) -> list[tuple[int, BaselineRequest]]:
        """What commands have asked for ``model`` and no check has served yet, oldest first, by number."""
        with self._lock:
            # A check that is owed has served its requests, although the disk does not know.
            owed = self._owed.get(model)
            return [pair for pair in super().requests(model) if not owed or pair[0] not in owed.served]

    # --------------------------------------------------------------------------------------------- studies

    def study(self, key: str) -> Study | None:
        """The study of this :func:`study_key`, if it is known."""
        rows = self._rows("SELECT key, record FROM studies WHERE key = ?", key)
        found = self._decoded("studies", "key", ((key, _unpack(blob)) for key, blob in rows), Study)
        if found:
            # Which one was used last is worth a write, but not a failure.
            with contextlib.suppress(StateWriteError), self._transaction() as connection:
                connection.execute(
                    "UPDATE studies SET used = (SELECT max(used) + 1 FROM studies) WHERE key = ?", (key,)
                )
        return found[0][1] if found else None

    def put_study(self, key: str, study: Study) -> None:
        """Keep a study; the one used longest ago makes room at 64. Raises :class:`StateWriteError`."""
        blob = zlib.compress(_pack(study), 6)
        with self._transaction() as connection:
            connection.execute(
                "REPLACE INTO studies VALUES (?, (SELECT ifnull(max(used), 0) + 1 FROM studies), ?)", (key, blob)
            )
            connection.execute(
                "DELETE FROM studies WHERE key IN (SELECT key FROM studies ORDER BY used DESC LIMIT -1 OFFSET ?)",
                (STUDIES,),
            )

    # ---------------------------------------------------------------------------------------------- access

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException as error:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                if isinstance(error, SqliteError):
                    raise StateWriteError(f"the state cannot be written: {line(error)}") from error
                raise

    def _undecodable(self, table: str, column: str, key: str | int, why: str) -> None:
        self._note(f"the state's {table} row {key!r} is not readable ({why}) and is dropped")
        with contextlib.suppress(StateWriteError), self._transaction() as connection:
            connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (key,))


def _opened(path: Path) -> tuple[sqlite3.Connection, list[str]]:
    """The database, made if need be, and what there is to say of it. Raises ``OSError`` and ``sqlite3.Error``."""
    # SQLite gives its side files the mode of the main one.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)
    try:
        return database.connect(path), []
    except Unusable as error:
        kind, why = error.args
    aside = database.set_aside(path, kind)
    connection, note = database.connect(path), f"{path}: {why}; it is kept as {aside.name} and a new one is started"
    if kind != "corrupt":
        return connection, [note]
    found = database.rescue(aside, connection)
    kept = ", ".join(f"{number} {table}" for table, number in found.items() if number)
    return connection, [f"{note} with {kept} out of it" if kept else note]


def _place_of(path: Path | None) -> tuple[int, int] | None:
    """Which file it is that has this name; ``None`` if there is none."""
    with contextlib.suppress(OSError):
        if path is not None:
            facts = path.stat()
            return facts.st_dev, facts.st_ino
    return None


_pack = msgspec.msgpack.encode


def _unpack(blob: bytes) -> bytes:
    """The bytes of a compressed record; none if it is damaged or too large."""
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(blob, STUDY_LIMIT)
    except (zlib.error, TypeError):
        return b""
    return data if unpacker.eof else b""
