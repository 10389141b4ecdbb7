"""What is remembered over restarts and power cuts: one SQLite file in the state directory.

An incident that was told must not be told again after a restart, and none may be forgotten, so a check's result, its
model's state and its events are one transaction, on the disk before :meth:`State.save_check` returns (WAL,
``synchronous=FULL``). What could not be written, as on a full disk, stays owed and goes with the next one that can.

The file is never trusted: a damaged one is set aside and a new one started, a row that does not decode is dropped, and
either is said in :attr:`State.notes`. Records are msgpack.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import sqlite3
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from monitor.errors import EXIT_UNMEASURED, NpumonError, UsageError
from monitor.records import CheckResult, Event, Latency, ModelState, Study

FILE: Final = "npumon.db"
EVENTS: Final = 1000
STUDIES: Final = 64
REPLAYS: Final = 100
"""Checks whose raw replays are kept, of each model."""
ASIDE: Final = 2
"""Databases that were set aside are kept this many times."""
STUDY_LIMIT: Final = 256 * 2**20
"""A study that unpacks to more bytes than the pipe could have brought is damage."""

VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE results (model TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE models (model TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE events (seq INTEGER PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE replays (seq INTEGER PRIMARY KEY, model TEXT NOT NULL, record BLOB NOT NULL);
CREATE INDEX replays_of ON replays (model, seq);
CREATE TABLE studies (key TEXT PRIMARY KEY, used INTEGER NOT NULL, record BLOB NOT NULL) WITHOUT ROWID;
"""
# From each older version the statements that lead to the next one.
_MIGRATIONS: Final[Mapping[int, str]] = {0: _SCHEMA}

# A damaged header can also say that the file is read-only; it is not, since it was opened for writing before.
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_READONLY)
_FOREIGN: Final = "unsupported file format"  # a damaged header, which SQLite reports without a code of its own
# The message of an error quotes the file, and if it quotes damage, sqlite3 fails to decode its own message.
_SqliteError: Final = (sqlite3.Error, UnicodeError)

_Record = TypeVar("_Record", bound=Struct)


class StateWriteError(NpumonError):
    """The state could not be written, mostly because the disk is full. The daemon says so and goes on."""

    exit_code = EXIT_UNMEASURED


class _Unusable(Exception):
    """A database that cannot be used; ``args[0]`` is the name under which it is set aside, ``args[1]`` why."""


class _Owed(Struct, frozen=True):
    """The last check of a model that is not on the disk yet, and all its events since the last one that is."""

    result: CheckResult
    state: ModelState
    events: tuple[Event, ...]


def study_key(model_sha256: str, dims: Mapping[str, int], samples: str, *others: str) -> str:
    """The key of a study: all that shapes it. ``samples`` is their digest, ``others`` such as versions."""
    return hashlib.sha256(msgspec.json.encode([model_sha256, sorted(dims.items()), samples, *others])).hexdigest()


class State:
    """The open database. Any thread may use it; calls wait for each other.

    ``notes`` collects sentences about what was found damaged, for the log.
    """

    def __init__(self, connection: sqlite3.Connection, notes: Iterable[str] = ()) -> None:
        self.notes: list[str] = list(notes)
        self._connection = connection
        self._lock = threading.RLock()
        self._owed: dict[str, _Owed] = {}

    @classmethod
    def open(cls, directory: Path, config: Path) -> State:
        """The state in ``directory``, which is made (0700) if need be, as is the file (0600).

        Raises :class:`UsageError`, naming the configuration file ``config``, if it cannot be written.
        """
        path = directory / FILE
        notes: list[str] = []
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            # SQLite gives its side files the mode of the main one.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            path.chmod(0o600)
            try:
                connection = _connect(path)
            except _Unusable as error:
                aside = _set_aside(path, error.args[0])
                notes.append(f"{path}: {error.args[1]}; it is kept as {aside.name} and a new one is started")
                connection = _connect(path)
        except (OSError, sqlite3.Error) as error:
            why = (isinstance(error, OSError) and error.strerror) or _line(error)
            if isinstance(error, FileExistsError):
                why = os.strerror(errno.ENOTDIR)
            raise UsageError(
                f"{config}: monitor.state: cannot write {directory}: {why}; "
                "free it for this user or name another directory"
            ) from error
        return cls(connection, notes)

    def close(self) -> None:
        """Write what is owed, if that works now, and close the file."""
        with self._lock:
            with contextlib.suppress(StateWriteError):
                self._settle()
            self._connection.close()

    # ---------------------------------------------------------------------------------------------- checks

    def save_check(self, result: CheckResult, state: ModelState, events: Iterable[Event] = ()) -> None:
        """Put a check on the disk: its result, replays, the model's state and the events, all or nothing.

        Raises :class:`StateWriteError` if that fails; then this check is owed, and the next call writes it too.
        """
        with self._lock:
            earlier = self._owed.get(result.model)
            told = (*(earlier.events if earlier else ()), *events)
            self._owed[result.model] = _Owed(result, state, told[-EVENTS:])
            self._settle()

    def _settle(self) -> None:
        if not self._owed:
            return
        with self._transaction() as connection:
            for model, owed in self._owed.items():
                connection.execute("REPLACE INTO results VALUES (?, ?)", (model, _pack(owed.result)))
                connection.execute("REPLACE INTO models VALUES (?, ?)", (model, _pack(owed.state)))
                rows = [(_pack(event),) for event in owed.events]
                connection.executemany("INSERT INTO events (record) VALUES (?)", rows)
                if owed.result.latency is not None:
                    row = (model, _pack(owed.result.latency))
                    connection.execute("INSERT INTO replays (model, record) VALUES (?, ?)", row)
                connection.execute(
                    "DELETE FROM replays WHERE model = ?1 AND seq <= "
                    "(SELECT seq FROM replays WHERE model = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
                    (model, REPLAYS),
                )
            connection.execute("DELETE FROM events WHERE seq <= (SELECT max(seq) FROM events) - ?", (EVENTS,))
        self._owed.clear()

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

    def forget(self, model: str) -> None:
        """Drop a model that is no longer configured; its events stay. Raises :class:`StateWriteError`."""
        with self._lock:
            self._owed.pop(model, None)
            with self._transaction() as connection:
                for table in ("results", "models", "replays"):
                    connection.execute(f"DELETE FROM {table} WHERE model = ?", (model,))

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
                if isinstance(error, _SqliteError):
                    raise StateWriteError(f"the state cannot be written: {_line(error)}") from error
                raise

    def _rows(self, query: str, *values: object) -> list[tuple[str | int, bytes]]:
        """Key and record of each row; nothing, and a note, if the file cannot be read."""
        with self._lock:
            try:
                return self._connection.execute(query, values).fetchall()
            except _SqliteError as error:
                self.notes.append(f"the state cannot be read: {_line(error)}")
                return []

    def _by_model(self, table: str, kind: type[_Record]) -> dict[str, _Record]:
        rows = self._rows(f"SELECT model, record FROM {table} ORDER BY model")
        return {str(model): record for model, record in self._decoded(table, "model", rows, kind)}

    def _decoded(
        self, table: str, column: str, rows: Iterable[tuple[str | int, bytes]], kind: type[_Record]
    ) -> list[tuple[str | int, _Record]]:
        """The rows as records; one that does not decode, as after a change of version, is dropped and noted."""
        good: list[tuple[str | int, _Record]] = []
        for key, blob in rows:
            try:
                good.append((key, msgspec.msgpack.decode(blob, type=kind)))
            except (msgspec.MsgspecError, TypeError, UnicodeDecodeError, RecursionError) as error:
                self.notes.append(f"the state's {table} row {key!r} is not readable ({_line(error)}) and is dropped")
                with contextlib.suppress(StateWriteError), self._transaction() as connection:
                    connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (key,))
        return good


_pack = msgspec.msgpack.encode


def _unpack(blob: bytes) -> bytes:
    """The bytes of a compressed record; none if it is damaged or too large."""
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(blob, STUDY_LIMIT)
    except (zlib.error, TypeError):
        return b""
    return data if unpacker.eof else b""


def _line(text: object) -> str:
    """One line, also if SQLite quotes a damaged file."""
    return "".join(filter(str.isprintable, str(text)))


def _connect(path: Path) -> sqlite3.Connection:
    """An open, sound, writable database of this version; raises :class:`_Unusable` or :class:`sqlite3.Error`."""
    connection = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
    try:
        # A damaged name must not make the whole table unreadable.
        connection.text_factory = lambda name: name.decode(errors="replace")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 4194304")
        (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise _Unusable("corrupt", f"the database is damaged ({_line(verdict)})")
        _migrate(connection)
        with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as model:
            _migrate(model)
            if _schema(connection) != _schema(model):
                raise _Unusable("corrupt", "the database has an unknown schema")
    except BaseException as error:
        connection.close()
        damaged = getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED
        if damaged or isinstance(error, UnicodeError) or _FOREIGN in str(error):
            raise _Unusable("corrupt", f"the database is damaged ({_line(error)})") from error
        raise
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema to :data:`VERSION` in one transaction, which also proves that the file can be written."""
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise _Unusable("newer", f"the database is of version {version}, from a newer npumon")
    while version < VERSION:
        for statement in _MIGRATIONS[version].split(";"):
            connection.execute(statement)
        version += 1
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def _schema(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
    return rows


def _set_aside(path: Path, why: str) -> Path:
    """Rename the database so that ``-1`` is the latest of its kind, and take its side files away."""
    kept = [path.with_name(f"{path.name}.{why}-{number}") for number in range(ASIDE, 0, -1)]
    for older, newer in zip(kept, [*kept[1:], path], strict=True):
        for suffix in ("", "-wal", "-shm"):
            if newer.with_name(newer.name + suffix).exists():
                os.replace(newer.with_name(newer.name + suffix), older.with_name(older.name + suffix))
    return kept[-1]
