"""The SQLite file of a soak: every check with its raw replays, on the disk before the next one begins.

A soak is the evidence for a release and takes a night, so a power cut may cost the running check and nothing else, and
what was measured can be read without npumon: a few plain tables, JSON, and replays as little-endian doubles
(docs/soak.md has the format).
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec
from msgspec import Struct

from monitor.errors import EXIT_UNMEASURED, NpumonError, UsageError
from monitor.outputs.database import line
from monitor.outputs.soak_rows import CONTENT, encoded, pack, restored, shared, varying
from monitor.records import Board, CheckResult, Event, ModelState
from monitor.records.soak import Session, Subject

FILE: Final = "soak.db"
VERSION: Final = 1
_APPLICATION: Final = 0x6E70736B
"""``npsk``: what tells the file of a soak from any other."""
_SCHEMA: Final = (
    "CREATE TABLE about (key TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE sessions (number INTEGER PRIMARY KEY, record TEXT NOT NULL)",
    "CREATE TABLE contents (number INTEGER PRIMARY KEY, record TEXT NOT NULL UNIQUE)",
    """CREATE TABLE checks (seq INTEGER PRIMARY KEY, model TEXT NOT NULL, session INTEGER NOT NULL,
    timestamp REAL NOT NULL, monotonic REAL NOT NULL, elapsed REAL NOT NULL, probe INTEGER, rss_bytes INTEGER,
    content INTEGER NOT NULL, record TEXT NOT NULL, replays BLOB NOT NULL, warmups BLOB NOT NULL)""",
    "CREATE INDEX checks_of ON checks (model, seq)",
    "CREATE TABLE events (seq INTEGER PRIMARY KEY, model TEXT NOT NULL, record TEXT NOT NULL)",
    "CREATE TABLE states (model TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID",
)


class SoakWriteError(NpumonError):
    """A check could not be written; what was written before is safe."""

    exit_code = EXIT_UNMEASURED


class Kept(Struct, frozen=True):
    """One check as it was kept. ``content`` numbers what it has in common with others."""

    session: int
    elapsed: float
    probe: int | None
    rss_bytes: int | None
    content: int
    result: CheckResult


class SoakFile:
    """The file of the soak in ``folder``, open for going on or only for reading. Use as a context manager."""

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder = folder
        self._connection = connection
        self._held = ExitStack()
        self._placed: dict[str, tuple[tuple[object, ...], int]] = {}
        self.subject = msgspec.json.decode(self._about("subject"), type=Subject)
        self.wanted = float(self._about("wanted_seconds"))

    def __enter__(self) -> SoakFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._held.close()

    def holds(self, held: ExitStack) -> None:
        """What is to be let go when the file is closed."""
        self._held = held

    @property
    def elapsed(self) -> float:
        """Seconds measured so far."""
        (elapsed,) = self._connection.execute("SELECT max(elapsed) FROM checks").fetchone()
        return float(elapsed or 0.0)

    @property
    def checks(self) -> int:
        return int(self._connection.execute("SELECT count(*) FROM checks").fetchone()[0])

    # ------------------------------------------------------------------------------------------------- writing

    def begin(self, started: float, boot: str, board: Board) -> Session:
        """A new session, which goes on where the last one was cut off. Raises :class:`UsageError` on another board."""
        sessions = self.sessions()
        if sessions and (other := _differs(sessions[-1].board, board)):
            raise UsageError(f"{self.folder}: --out: a soak on another board: {other}; name another folder")
        session = Session(len(sessions) + 1, started, self.elapsed, boot, board)
        with self._writing():
            self._connection.execute("INSERT INTO sessions VALUES (?, ?)", (session.number, encoded(session)))
        return session

    def append(self, kept: Kept, monotonic: float, state: ModelState, events: Sequence[Event]) -> None:
        """Keep one check, the memory of its model and its events, all or nothing; ``kept.content`` is not looked at.

        Raises :class:`SoakWriteError`.
        """
        result = kept.result
        latency = result.latency
        replays = latency.replays_seconds if latency else ()
        warmups = latency.warmups_seconds if latency else ()
        with self._writing():
            row = (
                *(result.model, kept.session, result.timestamp, monotonic, kept.elapsed, kept.probe, kept.rss_bytes),
                *(self._content(result), encoded(varying(result)), pack(replays), pack(warmups)),
            )
            self._connection.execute(f"INSERT INTO checks VALUES (NULL, {', '.join('?' * len(row))})", row)
            for event in events:
                self._connection.execute("INSERT INTO events VALUES (NULL, ?, ?)", (event.model, encoded(event)))
            record = msgspec.msgpack.encode(state)
            self._connection.execute("INSERT OR REPLACE INTO states VALUES (?, ?)", (state.model, record))

    def _content(self, result: CheckResult) -> int:
        parts = tuple(getattr(result, name) for name in CONTENT)
        known = self._placed.get(result.model)
        # A probe's checks share their placement: a large one must not be encoded at each of them.
        if known and all(one is other or one == other for one, other in zip(known[0], parts, strict=True)):
            return known[1]
        record = encoded(dict(zip(CONTENT, parts, strict=True)))
        self._connection.execute("INSERT OR IGNORE INTO contents VALUES (NULL, ?)", (record,))
        (number,) = self._connection.execute("SELECT number FROM contents WHERE record = ?", (record,)).fetchone()
        self._placed[result.model] = (parts, number)
        return int(number)

    def _writing(self) -> _Transaction:
        return _Transaction(self._connection, self.folder / FILE)

    # ------------------------------------------------------------------------------------------------- reading

    def sessions(self) -> tuple[Session, ...]:
        rows = self._connection.execute("SELECT record FROM sessions ORDER BY number")
        return tuple(msgspec.json.decode(record, type=Session) for (record,) in rows)

    def states(self) -> dict[str, ModelState]:
        """What is remembered of each model, for going on."""
        rows = self._connection.execute("SELECT model, record FROM states").fetchall()
        return {model: msgspec.msgpack.decode(record, type=ModelState) for model, record in rows}

    def events(self, model: str) -> tuple[Event, ...]:
        rows = self._connection.execute("SELECT record FROM events WHERE model = ? ORDER BY seq", (model,))
        return tuple(msgspec.json.decode(record, type=Event) for (record,) in rows)

    def kept(self, model: str) -> Iterator[Kept]:
        """The checks of ``model`` in the order they were made."""
        contents: dict[int, dict[str, Any]] = {}
        rows = self._connection.execute(
            "SELECT session, elapsed, probe, rss_bytes, content, record, replays, warmups FROM checks"
            " WHERE model = ? ORDER BY seq",
            (model,),
        )
        for session, elapsed, probe, rss, content, record, replays, warmups in rows:
            if content not in contents:
                row = self._connection.execute("SELECT record FROM contents WHERE number = ?", (content,)).fetchone()
                contents[content] = shared(row[0])
            result = restored(record, replays, warmups, contents[content])
            yield Kept(session, elapsed, probe, rss, content, result)

    def _about(self, key: str) -> str:
        row = self._connection.execute("SELECT record FROM about WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else "null"


def begun(folder: Path, subject: Subject, wanted: float) -> SoakFile:
    """The soak in ``folder``: a new one, or the one that is there if it is of the same ``subject``.

    ``wanted`` seconds in all are to be measured, which may be more than was wanted before. Raises :class:`UsageError`.
    """
    with ExitStack() as held:
        _lock(folder, held)
        path = folder / FILE
        fresh = not path.exists()
        connection = _opened(path, held)
        if fresh or not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            with _Transaction(connection, path):
                connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                connection.execute(f"PRAGMA user_version = {VERSION}")
                for statement in _SCHEMA:
                    connection.execute(statement)
                connection.execute("INSERT INTO about VALUES ('subject', ?)", (encoded(subject),))
                connection.execute("INSERT INTO about VALUES ('wanted_seconds', ?)", (str(wanted),))
        _verify(path, connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        file = SoakFile(folder, connection)
        if other := differs(file.subject, subject):
            raise UsageError(f"{folder}: --out: a soak of another configuration: {other}; name another folder")
        with _Transaction(connection, path):
            connection.execute("UPDATE about SET record = ? WHERE key = 'wanted_seconds'", (str(wanted),))
        file.wanted = wanted
        file.holds(held.pop_all())
    return file


def existing(folder: Path) -> SoakFile:
    """The soak in ``folder``, for reading; it may be running. Raises :class:`UsageError` if there is none."""
    path = folder / FILE
    if not path.is_file():
        raise UsageError(f"{folder}: no soak was made here; npumon soak -c FILE --duration 8h --out {folder} makes one")
    with ExitStack() as held:
        connection = _opened(path, held)
        _verify(path, connection)
        file = SoakFile(folder, connection)
        file.holds(held.pop_all())
    return file


@contextmanager
def undamaged(folder: Path) -> Iterator[None]:
    """Reading from the soak in ``folder``. Raises :class:`UsageError`, and says what may help, if it is damaged."""
    try:
        yield
    except (sqlite3.Error, msgspec.MsgspecError) as error:
        mend = "`sqlite3 soak.db .recover` may save the rest"
        raise UsageError(f"{folder / FILE}: damaged: {line(error)}; {mend}") from error


def differs(one: Subject, other: Subject) -> str:
    """The first thing in which two subjects differ, as ``what: before, now``; empty if they do not."""
    if found := _differs(one, other, ("models",)):
        return found
    if one.models.keys() != other.models.keys():
        return f"models were {', '.join(one.models)}, are {', '.join(other.models)}"
    for model, settings in one.models.items():
        now = other.models[model]
        for key in {**settings, **now}:
            if settings.get(key) != now.get(key):
                return f"{model}: {key} was {settings.get(key, 'absent')}, is {now.get(key, 'absent')}"
    return ""


# --------------------------------------------------------------------------------------------------------- parts


class _Transaction:
    """All or nothing, on the disk at the end; SQLite's errors as one line."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection, self._path = connection, path

    def __enter__(self) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise self._refused(error) from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            with suppress(sqlite3.Error):  # SQLite has mostly done so itself
                self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise self._refused(error) from error
            return
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as failure:
            raise self._refused(failure) from failure

    def _refused(self, error: sqlite3.Error) -> SoakWriteError:
        return SoakWriteError(f"{self._path}: {error}; free space there, then go on with the same command")


def _differs(one: Struct, other: Struct, but: Sequence[str] = ()) -> str:
    """The first field but those of ``but`` in which two records differ, in words; empty if they do not."""
    for name in one.__struct_fields__:
        before, now = getattr(one, name), getattr(other, name)
        if name not in but and before != now:
            return f"{name.removesuffix('_seconds')} was {before}, is {now}"
    return ""


def _lock(folder: Path, held: ExitStack) -> None:
    """One soak at a time in ``folder``, which is made if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"{folder}: --out: {error.strerror}; name a folder that this user may write") from error
    held.callback(os.close, descriptor)
    for path in (folder, folder / FILE):
        if path.exists() and not os.access(path, os.W_OK):
            raise UsageError(f"{path}: --out: may not be written; name a folder that this user may write")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise UsageError(f"{folder}: --out: another npumon soak runs here; end it or name another folder") from error


def _opened(path: Path, held: ExitStack) -> sqlite3.Connection:
    # Evidence that may only be read, as in an archive: SQLite would want to make files of its own beside it.
    still = not os.access(path.parent, os.W_OK) and not path.with_name(f"{FILE}-wal").exists()
    address = f"{path.absolute().as_uri()}?{'immutable=1' if still else 'mode=rwc'}"
    try:
        # Only one thread at a time writes, but the one that runs the checks is not the one that opens the file.
        connection = sqlite3.connect(address, timeout=5.0, isolation_level=None, check_same_thread=False, uri=True)
        held.callback(connection.close)
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        full = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL)
        mend = "free space there" if full else "name another folder"
        raise UsageError(f"{path}: cannot be read as a soak: {error}; {mend}") from error
    return connection


def _verify(path: Path, connection: sqlite3.Connection) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION:
        raise UsageError(f"{path}: not the file of a soak; name another folder")
    if version != VERSION:
        raise UsageError(f"{path}: written by another version of npumon ({version}); use that one, or another folder")
