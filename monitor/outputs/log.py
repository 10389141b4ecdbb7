"""The log: JSON lines for machines, readable lines at a terminal, and never a reason for the daemon to stop.

A line is bounded, because journald splits what is longer than 48 KiB and half a JSON object alerts nobody. A line
that cannot be written (a closed pipe, a full disk) is lost: measuring goes on. Where a line goes to journald it begins
with its priority, which journald takes off and filters by (``journalctl -p warning``; sd-daemon(3)).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import threading
import time
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

from monitor.outputs.wording import clip, percent, printable, rfc3339

# structlog imports rich for its pretty tracebacks if it is installed, which costs the daemon 10 MiB and half a second
# and shows nothing: a traceback never reaches a user. With None in its place, the import fails as if it were not there.
_rich = sys.modules.get("rich")
if _rich is None:
    sys.modules["rich"] = None  # type: ignore[assignment]
try:
    import structlog
finally:
    if _rich is None:
        del sys.modules["rich"]

LINE_LIMIT: Final = 40 * 1024
"""Longest line in bytes; below journald's ``LineMax`` of 48 KiB."""

TEXT_LIMIT: Final = 4000
"""Longest single string in characters."""

_HEAD = ("timestamp", "level", "event")
_HEAD_LIMIT = 500
COLOURS: Final = {"info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_PRIORITIES = {"critical": 2, "error": 3, "warning": 4}
_INFO = 6
_TERMINAL_OPS = 5

Fields = MutableMapping[str, Any]

logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()


def configure(stream: TextIO, json: bool | None = None) -> None:
    """Send the log to ``stream``: as JSON lines if ``json``, by default if ``stream`` is no terminal."""
    terminal = stream.isatty()
    as_json = not terminal if json is None else json
    colour = terminal and "NO_COLOR" not in os.environ
    last = _Json(_is_journal(stream)) if as_json else _Readable(colour)
    structlog.configure(
        processors=[structlog.processors.add_log_level, _stamp, last],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=lambda *_: _Lines(stream),
        cache_logger_on_first_use=False,
    )


def to_line(fields: Fields) -> str:
    """``fields`` as one JSON object of at most ``LINE_LIMIT`` bytes, without its newline.

    If it would be longer, the longest fields are left out and named in ``truncated``.
    """
    ordered = {key: fields[key] for key in _HEAD if key in fields}
    ordered.update((key, value) for key, value in fields.items() if key not in ordered)
    clean = {printable(key): _clean(value) for key, value in ordered.items()}
    clean.update((key, clip(str(clean[key]), _HEAD_LIMIT)) for key in _HEAD if key in clean)
    line = json.dumps(clean, separators=(",", ":"))
    truncated: list[str] = []
    while len(line) > LINE_LIMIT:
        candidates = (key for key in clean if key not in _HEAD and key != "truncated")
        longest = max(candidates, key=lambda key: len(json.dumps(clean[key])))
        del clean[longest]
        truncated.append(clip(longest, 60))
        line = json.dumps({**clean, "truncated": truncated[:20]}, separators=(",", ":"))
    return line


def _stamp(_: Any, __: str, fields: Fields) -> Fields:
    """An event brings the time it happened at; everything else happens now."""
    fields.setdefault("timestamp", rfc3339(time.time()))
    return fields


def _clean(value: Any) -> Any:
    """``value`` as valid JSON and valid UTF-8: no NaN, no lone surrogates from file names, no endless strings."""
    if isinstance(value, str):
        return clip(value.encode("utf-8", "replace").decode(), TEXT_LIMIT)
    if isinstance(value, dict):
        return {clip(str(key), TEXT_LIMIT): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, int):
        return value
    return clip(str(value), TEXT_LIMIT)


def _is_journal(stream: TextIO) -> bool:
    """Whether ``stream`` is what systemd connected to journald: its ``$JOURNAL_STREAM`` (systemd.exec(5)) names it.

    The variable alone is not enough, since whoever redirects a service's output leaves it in the environment.
    """
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _Json:
    """The last processor for machines."""

    def __init__(self, journal: bool) -> None:
        self._journal = journal

    def __call__(self, _: Any, __: str, fields: Fields) -> str:
        prefix = f"<{_PRIORITIES.get(str(fields['level']), _INFO)}>" if self._journal else ""
        return prefix + to_line(fields)


class _Readable:
    """The last processor for people: time, level and event, what else is known, and the worst ops indented below."""

    def __init__(self, colour: bool) -> None:
        self._colour = colour

    def __call__(self, _: Any, __: str, fields: Fields) -> str:
        level, event = str(fields["level"]), printable(str(fields["event"]))
        if self._colour:
            level = f"{COLOURS.get(level, '')}{level:<7}\x1b[0m"
        clock = str(fields["timestamp"])[11:19]
        rest = {key: value for key, value in fields.items() if key not in (*_HEAD, "ops", "id", "board", "runtime")}
        words = " ".join(f"{key}={_word(value)}" for key, value in rest.items())
        lines = [f"{clock} {level:<7} {event} {words}".rstrip()]
        ops = fields.get("ops") or ()
        lines += [f"         {_op(op)}" for op in ops[:_TERMINAL_OPS]]
        if len(ops) > _TERMINAL_OPS:
            lines.append(f"         and {len(ops) - _TERMINAL_OPS + fields.get('ops_omitted', 0)} more")
        return "\n".join(clip(line, TEXT_LIMIT) for line in lines)


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = printable(str(value))
    return f'"{text}"' if " " in text or not text else text


def _op(op: dict[str, Any]) -> str:
    return printable(f"{op['op_type']} {op['node']} ({percent(op.get('flops_ratio'))} of FLOPs): {op['reason']}")


class _Lines:
    """What structlog writes to: one whole line at a time, from any thread."""

    _lock = threading.Lock()

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        # Lost is better than dead: OSError is a full disk or a broken pipe, ValueError a closed stream or a character
        # that the terminal's encoding does not have.
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._stream.write(line + "\n")
            self._stream.flush()

    debug = info = warning = error = critical = msg
