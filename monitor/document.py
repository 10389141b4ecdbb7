"""A TOML file that knows its lines: tomllib gives values without positions, and a mistake is found by its line."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from contextlib import suppress
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from monitor.errors import UsageError

SIZE_LIMIT = 2**20  # a model named by mistake has hundreds of MB, /dev/zero no end

Place = tuple[str | int, ...]  # of a value in the document: ("models", 0, "gate", "cv")


def _error(message: str) -> UsageError:
    # Names and values come from the file: whatever would break the line, or not print, is escaped.
    return UsageError("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message))


def quote(text: str) -> str:
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"' if len(text) <= 300 else f'"{text[:60]}…"'


def show(value: Any) -> str:
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value) if abs(value) < 2**64 else "an integer beyond 64 bits"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an array of tables" if value and all(isinstance(one, dict) for one in value) else "an array"
    return f"the {type(value).__name__} {value}"


def dotted(path: Place) -> str:
    bare = re.compile("[A-Za-z0-9_-]+")
    parts = (f"[{p}]" if isinstance(p, int) else f".{p if bare.fullmatch(p) else quote(p)}" for p in path)
    name = "".join(parts).removeprefix(".")
    return name if len(name) <= 300 else f"{name[:60]}…"


def digest_of(file: Path) -> str | None:
    """What tells this file's content from another: its SHA-256; ``None`` if it cannot be read."""
    with suppress(OSError):
        return sha256(_read(file)).hexdigest()
    return None


def _read(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(SIZE_LIMIT + 1)


class Document:
    """The file's text, and where in it things stand."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            data = _read(file)
        except OSError as error:
            reason = error.strerror or str(error)
            raise _error(f"{file}: {reason}; name a TOML file that this user may read") from error
        if len(data) > SIZE_LIMIT:
            raise _error(f"{file}: more than 1 MiB, so no configuration; name a TOML file")
        self.digest = sha256(data).hexdigest()
        try:
            self.text = data.decode("utf-8-sig").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            byte = error.object[error.start]
            raise _error(f"{file}:{line}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8") from error

    def line(self, path: Place) -> int:
        """The line of ``path``, or of the nearest table around it that is written down."""
        lines = _Scan(self.text).lines
        while path not in lines:
            path = path[:-1]
        return lines[path]

    def mistake(self, path: Place, sentence: str) -> UsageError:
        return _error(f"{self.file}:{self.line(path)}: {dotted(path)}: {sentence}")

    def parse(self) -> dict[str, Any]:
        try:
            return tomllib.loads(self.text)
        except RecursionError as error:
            raise _error(f"{self.file}: brackets nested too deep; write two levels at most") from error
        except tomllib.TOMLDecodeError as error:
            raise self._syntax(str(error)) from error
        except ValueError as error:  # int() has a limit of its own
            raise _error(f"{self.file}: not valid TOML, an integer has thousands of digits; shorten it") from error

    def _syntax(self, message: str) -> UsageError:
        scan = _Scan(self.text)
        what, _, where = message.rpartition(" (at ")
        position = re.match(r"line (\d+), column (\d+)", where)
        # tomllib finds an unclosed string or bracket at the end; the scan stops where it was opened.
        line = int(position[1]) if position else min(scan.line(scan.at), scan.line(len(self.text.rstrip())))
        if scan.clash and scan.clash.line <= line:
            path, line, sentence = scan.clash
            return _error(f"{self.file}:{line}: {dotted(path)}: {sentence}")
        key = next((f"{dotted(path)}: " for path in reversed(scan.lines) if path and scan.lines[path] == line), "")
        column = f" at column {position[2]}" if position else ""
        mend = next((mend for start, mend in _SYNTAX.items() if what.startswith(start)), "mend it there")
        return _error(f"{self.file}:{line}: {key}not valid TOML{column}, {what[:1].lower()}{what[1:200]}; {mend}")


_SYNTAX = {
    "Expected newline": 'put text in quotes, as in "60s", and each key on a line of its own',
    "Invalid value": 'put text in quotes, as in "60s", and true and false in lower case',
    "Illegal character": "close the quotes on the same line",
    "Unterminated string": "close the quotes",
    'Expected "\'"': "close the quotes",
    "Unescaped": r"write \\ for a backslash",
    "Expected '=": "write key = value",
    "Expected ']": "close the brackets",
    "Unclosed": "separate values by commas and close the bracket",
    "Invalid statement": "write key = value or [table]",
    "Invalid initial": "write a name, in quotes if it has other characters than A-Z a-z 0-9 _ -",
}


class _Clash(NamedTuple):
    path: Place
    line: int
    sentence: str


class _Lost(Exception):
    """The text is not TOML here, and what follows cannot be told apart."""


_SPACE = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_PLAIN = r'"(?:\\.|[^"\\\n])*"' + r"|'[^'\n]*'"
_PART = rf"(?:[A-Za-z0-9_-]+|{_PLAIN})"
_NAMES = re.compile(rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*")
_LONG = r'"""(?:\\.|[^\\])*?"{3,5}' + r"|'''.*?'{3,5}"
_SCALAR = re.compile(rf"{_LONG}|{_PLAIN}|[^\s\"',\[\]{{}}#][^,\]}}#\n]*", re.DOTALL)


class _Scan:
    """Which line each key and table stands on: a walk over TOML that tells structure, and leaves values to tomllib.

    ``clash`` is the first thing that is defined twice. In text that is no TOML the scan stops, at ``at``, and keeps
    what it has.
    """

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.breaks = [found.start() for found in re.finditer("\n", text)]
        self.lines: dict[Place, int] = {(): 1}
        self.kinds: dict[Place, str] = {}
        self.sizes: dict[Place, int] = {}  # of arrays of tables, so far
        self.clash: _Clash | None = None
        with suppress(_Lost, tomllib.TOMLDecodeError, RecursionError):
            self._document()

    def line(self, at: int) -> int:
        return bisect_left(self.breaks, at) + 1

    def _document(self) -> None:
        table: Place = ()
        while self._peek():
            line = self.line(self.at)
            if self._take("[["):
                table = self._enter((), self._names(), line, "array")
                self._expect("]]")
            elif self._take("["):
                table = self._enter((), self._names(), line, "table")
                self._expect("]")
            else:
                self._pair(table)

    def _pair(self, table: Place) -> None:
        line = self.line(self.at)
        path = self._enter(table, self._names(), line, "key")
        self._expect("=")
        self._value(path)

    def _value(self, path: Place) -> None:
        if self._peek() == "[":
            self.at += 1
            for index in count():
                if self._peek() == "]":
                    break
                self.lines[(*path, index)] = self.line(self.at)
                self._value((*path, index))
                if not self._take(","):
                    break
            self._expect("]")
        elif self._take("{"):
            while self._peek() != "}":
                self._pair(path)
                if not self._take(","):
                    break
            self._expect("}")
        elif found := _SCALAR.match(self.text, self.at):
            self.at = found.end()
        else:
            raise _Lost

    def _enter(self, table: Place, names: list[str], line: int, kind: str) -> Place:
        """The path that ``names`` lead to from ``table``: in an array of tables, through its last one."""
        for name in names[:-1]:
            table = (*table, name)
            self.lines.setdefault(table, line)
            self.kinds.setdefault(table, "implied")
            if table in self.sizes:
                table = (*table, self.sizes[table] - 1)
        table = (*table, names[-1])
        before, first = self.kinds.get(table, "implied"), self.lines.get(table)
        if first and not before == kind == "array" and not (before == "implied" and kind != "array"):
            mend = f"write [[{table[-1]}]] every time" if "array" in (before, kind) else "keep one of them"
            self.clash = self.clash or _Clash(table, line, f"defined twice, first on line {first}; {mend}")
        elif before == "implied":
            self.lines[table], self.kinds[table] = line, kind
        if kind == "array":
            self.sizes[table] = self.sizes.get(table, 0) + 1
            table = (*table, self.sizes[table] - 1)
            self.lines[table] = line
        return table

    def _names(self) -> list[str]:
        self._peek()
        if not (found := _NAMES.match(self.text, self.at)):
            raise _Lost
        self.at = found.end()
        names: list[str] = []
        tree: Any = tomllib.loads(f"{found[0]} = 0")
        while isinstance(tree, dict):
            ((name, tree),) = tree.items()
            names.append(name)
        return names

    def _peek(self) -> str:
        """The next character that is neither blank nor comment, or nothing at the end."""
        if blank := _SPACE.match(self.text, self.at):
            self.at = blank.end()
        return self.text[self.at : self.at + 1]

    def _take(self, token: str) -> bool:
        self._peek()
        found = self.text.startswith(token, self.at)
        self.at += len(token) if found else 0
        return found

    def _expect(self, token: str) -> None:
        if not self._take(token):
            raise _Lost
