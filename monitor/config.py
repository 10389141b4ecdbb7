"""The configuration file: TOML in, frozen records out, every mistake named by file, line, key and mend.

Who edits it sits on a board, over a slow line, with no schema at hand: nothing is guessed, and each mistake is one
sentence that says what to write instead. tomllib gives values without positions, hence the scan for lines at the end.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from collections.abc import Callable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from ipaddress import IPv4Address, IPv6Address
from itertools import count
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import Struct

from monitor.duration import format_duration, parse_duration
from monitor.errors import UsageError

SIZE_LIMIT = 2**20  # a model named by mistake has hundreds of MB, /dev/zero no end
LONGEST = 365 * 86_400.0  # seconds; far beyond it a scheduler's dates overflow


class Gate(Struct, frozen=True, forbid_unknown_fields=True):
    """What a model must meet to be healthy. ``median`` is in seconds; ``None``: not gated."""

    npu_flops: float = 0.95
    cv: float = 0.15
    median: float | None = None


class Model(Struct, frozen=True, forbid_unknown_fields=True):
    """One deployed model: its file, its session as the application makes it, and how it is checked.

    ``options`` are the execution provider's options (already merged over ``[runtime.options]`` after loading),
    ``session`` SessionOptions attributes and session config entries, ``dims`` free dimension overrides. ``timeout`` is
    the longest a probe may take to answer one request, in seconds.
    """

    name: str
    path: Path
    source: Path | None = None
    samples: Path | None = None
    dims: dict[str, int] = {}
    options: dict[str, str] = {}
    session: dict[str, str | int | float | bool] = {}
    replays: int = 30
    resident: bool = True
    timeout: float = 30.0
    gate: Gate = Gate()


class Config(Struct, frozen=True):
    """A whole, valid configuration. ``interval`` and ``audit_interval`` are seconds."""

    file: Path
    listen: tuple[str, int]
    state: Path
    interval: float
    audit_interval: float
    provider: str
    models: tuple[Model, ...]


def load(file: Path) -> Config:
    """Read and check ``file``. Paths in it start from its folder; whether they exist is for the probes to find out.

    Raises :class:`UsageError` at the first mistake: one line, ``file:line: key: what is wrong; what mends it``.
    """
    source = _Source(file)
    root = _table(_Spot(source, (), source.parse()), _ROOT)
    if "models" not in root:
        raise source.mistake(("models",), "missing; write [[models]] with a name and a path")
    runtime = {"provider": "qnn", "options": {}} | root.get("runtime", {})
    models = [model | {"options": runtime["options"] | model.get("options", {})} for model in root["models"]]
    return Config(
        file=file.absolute(),
        provider=runtime["provider"],
        models=tuple(Model(**model) for model in models),
        **_DEFAULTS | root.get("monitor", {}),
    )


_Path = tuple[str | int, ...]  # of a value in the document: ("models", 0, "gate", "cv")


class _Spot(NamedTuple):
    """A value, where it stands, and what a right one looks like."""

    source: _Source
    path: _Path
    value: Any
    example: str = ""

    def below(self, key: str | int, example: str = "") -> _Spot:
        return _Spot(self.source, (*self.path, key), self.value[key], example)

    def mistake(self, sentence: str) -> UsageError:
        return self.source.mistake(self.path, sentence)

    def wrong(self, expected: str, write: str | None = None) -> UsageError:
        mend = f"{_dotted(self.path[-1:])} = {write or self.example}"
        return self.mistake(f"expected {expected}, got {_show(self.value)}; write {mend}")


class _Key(NamedTuple):
    read: Callable[[_Spot], Any]
    example: str = ""


def _table(spot: _Spot, keys: Mapping[str, _Key]) -> dict[str, Any]:
    """The checked values of a table; keys that are absent stay absent."""
    if not isinstance(spot.value, dict):
        header = ".".join(key for key in spot.path if isinstance(key, str))
        mend = f"[{header}]" if isinstance(spot.path[-1], str) else f"[[{header}]]"
        raise spot.mistake(f"expected a table, got {_show(spot.value)}; write {mend}")
    for key in spot.value:
        if key not in keys:
            raise spot.below(key).mistake(_unknown(key, keys))
    return {key: keys[key].read(spot.below(key, keys[key].example)) for key in spot.value}


_HEADERS = {"monitor": "[monitor]", "runtime": "[runtime]", "models": "[[models]]", "gate": "[models.gate]"}


def _unknown(key: str, keys: Mapping[str, _Key]) -> str:
    homes = {"monitor": _MONITOR, "runtime": _RUNTIME, "models": _MODEL, "gate": _GATE}
    if key in _HEADERS:
        return f"unknown key here; write it as {_HEADERS[key]}"
    if home := next((_HEADERS[home] for home, known in homes.items() if key in known), None):
        return f"unknown key here; move it to {home}"
    if near := get_close_matches(key.lower(), keys, 1):
        return f"unknown key; write {_HEADERS.get(near[0], near[0])}"
    return f"unknown key; remove it or write one of {', '.join(keys)}"


def _models(spot: _Spot) -> list[dict[str, Any]]:
    if not isinstance(spot.value, list):
        raise spot.mistake(f"expected an array of tables, got {_show(spot.value)}; write [[models]] above each model")
    if not spot.value:
        raise spot.mistake("expected at least one model, got none; write [[models]] with a name and a path")
    models: list[dict[str, Any]] = []
    named: dict[str, _Path] = {}
    for one in map(spot.below, range(len(spot.value))):
        model = _table(one, _MODEL)
        for key in ("name", "path"):
            if key not in model:
                raise spot.source.mistake((*one.path, key), f"missing; write {key} = {_MODEL[key].example}")
        if other := named.get(model["name"]):
            first = f"{_dotted(other)} on line {spot.source.line((*other, 'name'))}"
            raise one.below("name").mistake(f"{_quote(model['name'])} is the name of {first}; choose another")
        named[model["name"]] = one.path
        models.append(model)
    return models


def _mapping(read: Callable[[_Spot], Any], example: str) -> Callable[[_Spot], dict[str, Any]]:
    def read_all(spot: _Spot) -> dict[str, Any]:
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
                mend = f"{_quote(name)} = {_show(value) if isinstance(value, str | int) else example}"
                raise spot.below(key).mistake(f"expected a value, got a table; quote the whole name, {mend}")
        return {key: read(spot.below(key, example)) for key in spot.value}

    return read_all


def _text(spot: _Spot, expected: str = "text in quotes") -> str:
    if not isinstance(spot.value, str):
        raise spot.wrong(expected)
    if "\0" in spot.value:
        raise spot.mistake("holds a NUL character, where C code would cut it off; remove it")
    return spot.value


def _name(spot: _Spot) -> str:
    near = re.sub(r"[^A-Za-z0-9_.-]+", "_", _text(spot))[:64]
    if near != spot.value or not near:
        raise spot.wrong("1 to 64 of the characters A-Z a-z 0-9 _ . -", near and _quote(near))
    return near


def _provider(spot: _Spot) -> str:
    near = _text(spot).lower().removesuffix("executionprovider")
    valid = re.fullmatch(r"[a-z][a-z0-9_]{0,31}", near)
    if near != spot.value or not valid:
        raise spot.wrong("a short name made of a-z 0-9 _", valid and _quote(near))
    return near


def _file(spot: _Spot) -> Path:
    if not _text(spot, "a path"):
        raise spot.wrong("a path")
    return spot.source.file.absolute().parent / str(spot.value)


def _listen(spot: _Spot) -> tuple[str, int]:
    text = _text(spot)
    if address := _address(text):
        return address
    host, _, port = text.rpartition(":")
    # No port, no host, IPv6 without brackets and with or without a port, a URL.
    guesses = [f"{text}:10877", f"0.0.0.0{text}", f"[{host}]:{port}", f"[{text}]:10877", *text.split("/")[2:3]]
    near = next((_quote(guess) for guess in guesses if _address(guess)), None)
    raise spot.wrong("host:port with a port from 1 to 65535", near)


def _address(text: str) -> tuple[str, int] | None:
    found = re.fullmatch(r"(?:\[([^\[\]]+)\]|([A-Za-z0-9_.-]{1,253})):([0-9]{1,5})", text)
    if not found or not 1 <= int(found[3]) <= 65535:
        return None
    with suppress(ValueError):
        if found[1]:
            IPv6Address(found[1])
        elif not found[2].strip("0123456789."):
            IPv4Address(found[2])
        return found[1] or found[2], int(found[3])
    return None


def _duration(spot: _Spot) -> float:
    if isinstance(spot.value, str):
        with suppress(ValueError):
            seconds = parse_duration(spot.value)
            if 0 < seconds <= LONGEST:
                return seconds
    near = None
    if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", plain := _show(spot.value).strip('"')) and float(plain):
        # Seconds, unless a median: nobody means one of 12 seconds.
        near = float(plain) / (1000 if spot.path[-1] == "median" and float(plain) >= 1 else 1)
    expected = "a duration in d, h, m, s, ms or us, above 0 and up to 365d"
    raise spot.wrong(expected, _quote(format_duration(near)) if near else None)


def _integer(low: int, high: int, expected: str) -> Callable[[_Spot], int]:
    def read(spot: _Spot) -> int:
        if type(spot.value) is int and low <= spot.value <= high:
            return spot.value
        near = re.fullmatch(r'"?([0-9]{1,18})(\.0)?"?', _show(spot.value))
        raise spot.wrong(expected, near[1] if near and low <= int(near[1]) <= high else None)

    return read


def _number(accepts: Callable[[float], bool], expected: str) -> Callable[[_Spot], float]:
    def read(spot: _Spot) -> float:
        if type(spot.value) in (int, float) and accepts(spot.value):
            return float(spot.value)
        raise spot.wrong(expected)

    return read


def _switch(spot: _Spot) -> bool:
    if isinstance(spot.value, bool):
        return spot.value
    near = _show(spot.value).strip('"').lower()
    raise spot.wrong("true or false", "false" if near in ("false", "no", "off", "0", "0.0") else "true")


def _option(spot: _Spot) -> str:
    if isinstance(spot.value, int | float):
        # A provider's options are text, its switches "1" and "0".
        near = str(int(spot.value)) if isinstance(spot.value, bool) else _show(spot.value)
        raise spot.wrong("text in quotes", _quote(near))
    return _text(spot)


def _setting(spot: _Spot) -> str | int | float | bool:
    value = spot.value
    if isinstance(value, str):
        return _text(spot)
    # What lies beyond 64 bits cannot cross the pipe to the probe.
    if (isinstance(value, int) and -(2**63) <= value < 2**63) or (isinstance(value, float) and abs(value) < inf):
        return value
    raise spot.wrong("text, a finite number of up to 64 bits, true or false")


# A key's reader raises UsageError; its example stands in mends.
_MONITOR = {
    "listen": _Key(_listen, '"127.0.0.1:10877"'),
    "state": _Key(_file, '"/var/lib/npumon"'),
    "interval": _Key(_duration, '"60s"'),
    "audit_interval": _Key(_duration, '"6h"'),
}
_DEFAULTS = {
    "listen": ("127.0.0.1", 10877),
    "state": Path("/var/lib/npumon"),
    "interval": 60.0,
    "audit_interval": 6 * 3600.0,
}
_OPTIONS = _Key(_mapping(_option, '"value"'), '{ name = "value" }')
_RUNTIME = {"provider": _Key(_provider, '"qnn"'), "options": _OPTIONS}
_GATE = {
    "npu_flops": _Key(_number(lambda share: 0 <= share <= 1, "a number from 0 to 1"), "0.95"),
    "cv": _Key(_number(lambda ratio: 0 < ratio < 2**1023, "a finite number above 0"), "0.15"),
    "median": _Key(_duration, '"12ms"'),
}
_MODEL = {
    "name": _Key(_name, '"detector"'),
    "path": _Key(_file, '"/opt/models/detector.onnx"'),
    "source": _Key(_file, '"/opt/models/src/detector.onnx"'),
    "samples": _Key(_file, '"/var/lib/npumon/samples/detector"'),
    "dims": _Key(_mapping(_integer(1, 2**63 - 1, "an integer of at least 1"), "1"), "{ batch = 1 }"),
    "options": _OPTIONS,
    "session": _Key(_mapping(_setting, "1"), "{ intra_op_num_threads = 1 }"),
    "replays": _Key(_integer(2, 10_000, "an integer from 2 to 10000"), "30"),
    "resident": _Key(_switch),
    "timeout": _Key(_duration, '"30s"'),
    "gate": _Key(lambda spot: Gate(**_table(spot, _GATE))),
}
_ROOT = {
    "monitor": _Key(lambda spot: _table(spot, _MONITOR)),
    "runtime": _Key(lambda spot: _table(spot, _RUNTIME)),
    "models": _Key(_models),
}

# ------------------------------------------------------------------------------ the file, and where in it things stand


def _error(message: str) -> UsageError:
    # Names and values come from the file: whatever would break the line, or not print, is escaped.
    return UsageError("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message))


def _quote(text: str) -> str:
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"' if len(text) <= 300 else f'"{text[:60]}…"'


def _show(value: Any) -> str:
    if isinstance(value, str):
        return _quote(value)
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


def _dotted(path: _Path) -> str:
    bare = re.compile("[A-Za-z0-9_-]+")
    parts = (f"[{p}]" if isinstance(p, int) else f".{p if bare.fullmatch(p) else _quote(p)}" for p in path)
    return "".join(parts).removeprefix(".")


class _Source:
    """The file's text, and where in it things stand."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            with file.open("rb") as stream:
                data = stream.read(SIZE_LIMIT + 1)
        except OSError as error:
            reason = error.strerror or str(error)
            raise _error(f"{file}: {reason}; name a TOML file that this user may read") from error
        if len(data) > SIZE_LIMIT:
            raise _error(f"{file}: more than 1 MiB, so no configuration; name a TOML file")
        try:
            self.text = data.decode("utf-8-sig").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            byte = error.object[error.start]
            raise _error(f"{file}:{line}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8") from error

    def line(self, path: _Path) -> int:
        """The line of ``path``, or of the nearest table around it that is written down."""
        lines = _Scan(self.text).lines
        while path not in lines:
            path = path[:-1]
        return lines[path]

    def mistake(self, path: _Path, sentence: str) -> UsageError:
        return _error(f"{self.file}:{self.line(path)}: {_dotted(path)}: {sentence}")

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
            return _error(f"{self.file}:{line}: {_dotted(path)}: {sentence}")
        key = next((f"{_dotted(path)}: " for path in reversed(scan.lines) if path and scan.lines[path] == line), "")
        column = f" at column {position[2]}" if position else ""
        mend = next((mend for start, mend in _SYNTAX.items() if what.startswith(start)), "mend it there")
        return _error(f"{self.file}:{line}: {key}not valid TOML{column}, {what[:1].lower()}{what[1:]}; {mend}")


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
    path: _Path
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
        self.lines: dict[_Path, int] = {(): 1}
        self.kinds: dict[_Path, str] = {}
        self.sizes: dict[_Path, int] = {}  # of arrays of tables, so far
        self.clash: _Clash | None = None
        with suppress(_Lost, tomllib.TOMLDecodeError, RecursionError):
            self._document()

    def line(self, at: int) -> int:
        return bisect_left(self.breaks, at) + 1

    def _document(self) -> None:
        table: _Path = ()
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

    def _pair(self, table: _Path) -> None:
        line = self.line(self.at)
        path = self._enter(table, self._names(), line, "key")
        self._expect("=")
        self._value(path)

    def _value(self, path: _Path) -> None:
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

    def _enter(self, table: _Path, names: list[str], line: int, kind: str) -> _Path:
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
