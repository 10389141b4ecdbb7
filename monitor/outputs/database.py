"""The SQLite file of the state: its schema by version, and the ways to open it.

The daemon owns the file: only it makes, migrates or sets aside a database, and takes what can be read of it along.
Commands open what is there, or say in one line why they cannot.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

from monitor.errors import UsageError

FILE: Final = "npumon.db"
ASIDE: Final = 2
"""Databases that were set aside are kept this many times."""

VERSION: Final = 3
_FIRST: Final = """
CREATE TABLE results (model TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE models (model TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE events (seq INTEGER PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE replays (seq INTEGER PRIMARY KEY, model TEXT NOT NULL, record BLOB NOT NULL);
CREATE INDEX replays_of ON replays (model, seq);
CREATE TABLE studies (key TEXT PRIMARY KEY, used INTEGER NOT NULL, record BLOB NOT NULL) WITHOUT ROWID;
"""
# From each older version the statements that lead to the next one.
_MIGRATIONS: Final[Mapping[int, str]] = {
    0: _FIRST,
    1: "CREATE TABLE requests (seq INTEGER PRIMARY KEY, record BLOB NOT NULL)",
    2: "CREATE TABLE untold (seq INTEGER PRIMARY KEY)",
}

# A damaged header can also say that the file is read-only; it is not, since it was opened for writing before.
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_READONLY)
_FOREIGN: Final = "unsupported file format"  # a damaged header, which SQLite reports without a code of its own
# The message of an error quotes the file, and if it quotes damage, sqlite3 fails to decode its own message.
SqliteError: Final = (sqlite3.Error, UnicodeError)

_NO_SIDE_FILES: Final = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL)
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)
_PATIENCE: Final = 5.0
"""Seconds to wait for another process that writes."""

_PLACES: Final = (None, "/dev/shm")
"""Where a copy is made for a moment: the folder for temporary files, or memory where that is full or read-only too."""

_WORTH: Final = ("models", "results", "events", "requests", "untold")
"""Tables that are taken along from a damaged file: what no check measures again."""
_MOST: Final = 1000
"""Rows of each, from either end: damage may lead round in circles."""


_CACHE: Final = 256
"""KiB of pages in memory. SQLite's own 2 MiB would fill over weeks, for rows that are read once, at the start."""


class Unusable(Exception):
    """A database that cannot be used; ``args[0]`` is the name under which it is set aside, ``args[1]`` why."""


# ------------------------------------------------------------------------------------------------ the daemon's


def connect(path: Path) -> sqlite3.Connection:
    """An open, sound, writable database of this version; raises :class:`Unusable` or :class:`sqlite3.Error`."""
    connection = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
    try:
        _read_damaged_names(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 4194304")
        connection.execute(f"PRAGMA cache_size = -{_CACHE}")
        (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise Unusable("corrupt", f"the database is damaged ({line(verdict)})")
        _migrate(connection)
        with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as model:
            _migrate(model)
            if _schema(connection) != _schema(model):
                raise Unusable("corrupt", "the database has an unknown schema")
    except BaseException as error:
        connection.close()
        if damaged(error):
            raise Unusable("corrupt", f"the database is damaged ({line(error)})") from error
        raise
    return connection


def damaged(error: BaseException) -> bool:
    """Whether SQLite met damage in the file, rather than a disk that does not take what is written."""
    return _code(error) in _DAMAGED or isinstance(error, UnicodeError) or _FOREIGN in str(error)


def may_pass(error: BaseException) -> bool:
    """Whether ``error`` is that of a disk which is full, read-only or failing: no mistake of whoever configured it."""
    return _code(error) in _NO_SIDE_FILES or (isinstance(error, OSError) and error.errno in _NO_ROOM)


def in_memory(path: Path) -> sqlite3.Connection | None:
    """A copy of a sound database that cannot be written where it is; ``None`` if there is none that can be read.

    Also what is only in its log is in it, since a check that forgot that would later be written over it.
    """
    for place in _PLACES:
        with contextlib.suppress(OSError, Unusable, *SqliteError):
            return _loaded(path, place)
    return None


def _loaded(path: Path, place: str | None) -> sqlite3.Connection | None:
    """The copy in memory, by way of ``place``; ``None`` if nothing was recorded. Raises what it likes."""
    with _copied(path, place) as copy, contextlib.closing(_opened(f"{copy.as_uri()}?mode=rw")) as source:
        if _version(source) == 0:
            return None
    with _copied(path, place) as copy, contextlib.closing(connect(copy)) as source:
        return _memory_of(source)


def detached(connection: sqlite3.Connection) -> sqlite3.Connection:
    """A copy in memory of a database whose file has another name or none by now, and which is closed.

    Before another one is made in its place: with its last connection SQLite removes the log by name, whosever it is.
    Raises what is in :data:`SqliteError`.
    """
    with contextlib.closing(connection):
        return _memory_of(connection)


def carry(source: sqlite3.Connection, into: sqlite3.Connection) -> None:
    """Take along what ``into`` does not have, all or nothing; raises :class:`sqlite3.Error`."""
    with _at_once(into):
        for table in _WORTH:
            for row in source.execute(f"SELECT * FROM {table} ORDER BY 1"):
                into.execute(_insertion(table, row), row)


def _memory_of(source: sqlite3.Connection) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    source.backup(connection)
    _read_damaged_names(connection)
    return connection


def rescue(aside: Path, into: sqlite3.Connection) -> dict[str, int]:
    """Take along what can be read of a file that was set aside; how many rows of each table.

    A row that SQLite gives need not be a record: who reads it drops what does not decode.
    """
    for place in _PLACES:
        with (
            contextlib.suppress(OSError, *SqliteError),
            _copied(aside, place) as copy,
            contextlib.closing(_opened(f"{copy.as_uri()}?mode=rw")) as source,
        ):
            with _at_once(into):
                for table in _WORTH:
                    for order in ("ASC", "DESC"):  # around what is damaged in between
                        _take(source, into, table, f"SELECT * FROM {table} ORDER BY 1 {order} LIMIT {_MOST}")
            break
    return {table: into.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in _WORTH}


def _take(source: sqlite3.Connection, into: sqlite3.Connection, table: str, query: str) -> None:
    with contextlib.suppress(*SqliteError):
        for row in source.execute(query):
            with contextlib.suppress(*SqliteError):
                into.execute(_insertion(table, row), row)


def _insertion(table: str, row: tuple[object, ...]) -> str:
    return f"INSERT OR IGNORE INTO {table} VALUES ({', '.join('?' * len(row))})"


@contextlib.contextmanager
def _at_once(into: sqlite3.Connection) -> Iterator[None]:
    """One transaction: a thousand would each wait for the disk."""
    into.execute("BEGIN IMMEDIATE")
    try:
        yield
        if into.in_transaction:  # a disk that is full may have ended it
            into.execute("COMMIT")
    finally:
        if into.in_transaction:
            into.execute("ROLLBACK")


@contextlib.contextmanager
def _copied(path: Path, place: str | None) -> Iterator[Path]:
    """A copy of a database and its log that may be written and is removed at the end. Raises :class:`OSError`."""
    with tempfile.TemporaryDirectory(prefix="npumon-state-", dir=place) as folder:
        copy = Path(folder, FILE)
        shutil.copyfile(path, copy)
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(path.with_name(f"{path.name}-wal"), copy.with_name(f"{FILE}-wal"))
        yield copy


def set_aside(path: Path, why: str) -> Path:
    """Rename the database so that ``-1`` is the latest of its kind, and take its side files away."""
    kept = [path.with_name(f"{path.name}.{why}-{number}") for number in range(ASIDE, 0, -1)]
    for older, newer in zip(kept, [*kept[1:], path], strict=True):
        for suffix in ("", "-wal", "-shm"):
            if newer.with_name(newer.name + suffix).exists():
                os.replace(newer.with_name(newer.name + suffix), older.with_name(older.name + suffix))
    return kept[-1]


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema to :data:`VERSION` in one transaction, which also proves that the file can be written."""
    connection.execute("BEGIN IMMEDIATE")
    version = _version(connection)
    if version > VERSION:
        raise Unusable("newer", f"the database is of version {version}, from a newer npumon")
    while version < VERSION:
        for statement in _MIGRATIONS[version].split(";"):
            connection.execute(statement)
        version += 1
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def _schema(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
    return rows


# ------------------------------------------------------------------------------------------------ a command's


def attach(directory: Path, config: Path, access: Literal["ro", "rw"]) -> sqlite3.Connection:
    """The database that a daemon made in ``directory``, which may run now; nothing is made, migrated or set aside.

    Raises :class:`UsageError`, naming the configuration file ``config``, if there is none that can be used.
    """
    path = directory.absolute() / FILE
    try:
        os.close(os.open(path, os.O_RDONLY if access == "ro" else os.O_RDWR))
        connection = _attached(path, access)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _nothing(path, config) from error
    except (OSError, *SqliteError) as error:
        raise refused(path, config, access, error) from error
    version = _version(connection)
    if version == VERSION:
        return connection
    connection.close()
    if version == 0:
        raise _nothing(path, config)
    if version < VERSION:
        why = f"an older npumon; restart npumon run -c {config}, which brings it up to date"
    else:
        why = "a newer npumon; use that one's command"
    raise UsageError(f"{config}: monitor.state: {path} is of version {version}, from {why}")


def refused(path: Path, config: Path, access: Literal["ro", "rw"], error: BaseException) -> UsageError:
    """What a command says of a database that it cannot use, for what the system or SQLite said."""
    code = _code(error)
    if isinstance(error, OSError) or code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        mend = "run this as the user that npumon run runs as, or as root"
    elif code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL):
        mend = "free space there, or look for errors of the disk in the kernel's log"
    elif code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        mend = "try again"
    else:
        mend = f"restart npumon run -c {config}, which keeps a damaged file aside and starts a new one"
    why = (isinstance(error, OSError) and error.strerror) or line(error)
    verb = "read" if access == "ro" else "write"
    return UsageError(f"{config}: monitor.state: cannot {verb} {path}: {why}; {mend}")


def _attached(path: Path, access: Literal["ro", "rw"]) -> sqlite3.Connection:
    """Raises what is in :data:`SqliteError`."""
    try:
        return _opened(f"{path.as_uri()}?mode={access}")
    except sqlite3.OperationalError as error:
        # WAL needs side files. Where they are not there and cannot be made, because the disk is full or the kernel has
        # made it read-only, nobody writes: then the file can be read without them.
        log = path.with_name(f"{path.name}-wal")
        if access == "rw" or _code(error) not in _NO_SIDE_FILES or (log.exists() and log.stat().st_size):
            raise
    return _opened(f"{path.as_uri()}?mode=ro&immutable=1")


def _opened(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
    try:
        _read_damaged_names(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _nothing(path: Path, config: Path) -> UsageError:
    return UsageError(f"{config}: monitor.state: {path.parent}: nothing was recorded yet; start npumon run -c {config}")


# ------------------------------------------------------------------------------------------------------- both


def line(text: object) -> str:
    """One line, also if SQLite quotes a damaged file."""
    return "".join(filter(str.isprintable, str(text)))


def _code(error: BaseException) -> int:
    """SQLite's primary result code, 0 if it gave none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _read_damaged_names(connection: sqlite3.Connection) -> None:
    """A damaged name must not make the whole table unreadable."""
    connection.text_factory = lambda name: name.decode(errors="replace")
