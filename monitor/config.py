"""The configuration file: TOML in, frozen records out, every mistake named by file, line, key and mend.

Who edits it sits on a board, over a slow line, with no schema at hand: nothing is guessed, and each mistake is one
sentence that says what to write instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from ipaddress import IPv4Address, IPv6Address
from math import inf
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from monitor import access
from monitor.access import Web
from monitor.document import Document, Place, dotted, quote, show
from monitor.duration import format_duration, parse_duration
from monitor.spot import Key, Spot, read_file, read_mapping, read_text

LONGEST = 365 * 86_400.0  # seconds; far beyond it a scheduler's dates overflow


class Gate(Struct, frozen=True, forbid_unknown_fields=True):
    """What a model must meet to be healthy. ``median`` is in seconds; ``None``: not gated.

    ``production`` is how many times as long, or as short, as the replays the application's own calls may take.
    """

    npu_flops: float = 0.95
    cv: float = 0.15
    median: float | None = None
    output_error: float = 0.1
    production: float = 2.0


class Model(Struct, frozen=True, forbid_unknown_fields=True):
    """One deployed model: its file, its session as the application makes it, and how it is checked.

    ``options`` are the execution provider's options (already merged over ``[runtime.options]`` after loading),
    ``session`` SessionOptions attributes and session config entries, ``dims`` free dimension overrides. ``timeout`` is
    the longest a probe may take to answer one request, in seconds; ``memory`` what one may take for itself, in bytes.
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
    memory: int | None = None
    compare_outputs: bool = True
    second_look: Literal["audit", "deep"] = "audit"
    gate: Gate = Gate()


class Config(Struct, frozen=True):
    """A whole, valid configuration. Intervals are in seconds, ``digest`` is the SHA-256 of the file.

    ``max_duty`` is the share of time that all replays together may keep the accelerator busy.
    """

    file: Path
    digest: str | None
    listen: tuple[str, int]
    state: Path
    interval: float
    audit_interval: float
    max_duty: float
    provider: str
    models: tuple[Model, ...]
    web: Web = Web()


def load(file: Path) -> Config:
    """Read and check ``file``. Paths in it start from its folder; whether they exist is for the probes to find out.

    Raises :class:`UsageError` at the first mistake: one line, ``file:line: key: what is wrong; what mends it``.
    """
    source = Document(file)
    top = Spot(source, (), source.parse())
    root = _table(top, _ROOT)
    if "models" not in root:
        raise source.mistake(("models",), "missing; write [[models]] with a name and a path")
    runtime = {"provider": "qnn", "options": {}} | root.get("runtime", {})
    models = [model | {"options": runtime["options"] | model.get("options", {})} for model in root["models"]]
    monitor, web = _DEFAULTS | root.get("monitor", {}), root.get("web", Web())
    access.check(top, monitor["listen"], web)
    return Config(
        file=file.absolute(),
        digest=source.digest,
        provider=runtime["provider"],
        models=tuple(Model(**model) for model in models),
        web=web,
        **monitor,
    )


def _table(spot: Spot, keys: Mapping[str, Key]) -> dict[str, Any]:
    """The checked values of a table; keys that are absent stay absent."""
    if not isinstance(spot.value, dict):
        header = ".".join(key for key in spot.path if isinstance(key, str))
        mend = f"[{header}]" if isinstance(spot.path[-1], str) else f"[[{header}]]"
        raise spot.mistake(f"expected a table, got {show(spot.value)}; write {mend}")
    for key in spot.value:
        if key not in keys:
            raise spot.below(key).mistake(_unknown(key, keys))
    return {key: keys[key].read(spot.below(key, keys[key].example)) for key in spot.value}


_HEADERS = {
    "monitor": "[monitor]",
    "web": "[web]",
    "users": "[web.users]",
    "runtime": "[runtime]",
    "models": "[[models]]",
    "gate": "[models.gate]",
}


def _unknown(key: str, keys: Mapping[str, Key]) -> str:
    homes = {"monitor": _MONITOR, "web": _WEB, "runtime": _RUNTIME, "models": _MODEL, "gate": _GATE}
    if key in _HEADERS:
        return f"unknown key here; write it as {_HEADERS[key]}"
    if home := next((_HEADERS[home] for home, known in homes.items() if key in known), None):
        return f"unknown key here; move it to {home}"
    if near := get_close_matches(key.lower(), keys, 1):
        return f"unknown key; write {_HEADERS.get(near[0], near[0])}"
    return f"unknown key; remove it or write one of {', '.join(keys)}"


def _models(spot: Spot) -> list[dict[str, Any]]:
    if not isinstance(spot.value, list):
        raise spot.mistake(f"expected an array of tables, got {show(spot.value)}; write [[models]] above each model")
    if not spot.value:
        raise spot.mistake("expected at least one model, got none; write [[models]] with a name and a path")
    models: list[dict[str, Any]] = []
    named: dict[str, Place] = {}
    for one in map(spot.below, range(len(spot.value))):
        model = _table(one, _MODEL)
        for key in ("name", "path"):
            if key not in model:
                raise spot.source.mistake((*one.path, key), f"missing; write {key} = {_MODEL[key].example}")
        if other := named.get(model["name"]):
            first = f"{dotted(other)} on line {spot.source.line((*other, 'name'))}"
            raise one.below("name").mistake(f"{quote(model['name'])} is the name of {first}; choose another")
        named[model["name"]] = one.path
        models.append(model)
    return models


def _name(spot: Spot) -> str:
    near = re.sub(r"[^A-Za-z0-9_.-]+", "_", read_text(spot))[:64]
    if near != spot.value or not near:
        raise spot.wrong("1 to 64 of the characters A-Z a-z 0-9 _ . -", near and quote(near))
    return near


def _provider(spot: Spot) -> str:
    near = read_text(spot).lower().removesuffix("executionprovider")
    valid = re.fullmatch(r"[a-z][a-z0-9_]{0,31}", near)
    if near != spot.value or not valid:
        raise spot.wrong("a short name made of a-z 0-9 _", valid and quote(near))
    return near


def _listen(spot: Spot) -> tuple[str, int]:
    text = read_text(spot)
    if address := _address(text):
        return address
    host, _, port = text.rpartition(":")
    # No port, no host, IPv6 without brackets and with or without a port, a URL.
    guesses = [f"{text}:10877", f"0.0.0.0{text}", f"[{host}]:{port}", f"[{text}]:10877", *text.split("/")[2:3]]
    near = next((quote(guess) for guess in guesses if _address(guess)), None)
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


def _duration(spot: Spot) -> float:
    if isinstance(spot.value, str):
        with suppress(ValueError):
            seconds = parse_duration(spot.value)
            if 0 < seconds <= LONGEST:
                return seconds
    near = None
    if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", plain := show(spot.value).strip('"')) and float(plain):
        # Seconds, unless a median: nobody means one of 12 seconds.
        near = float(plain) / (1000 if spot.path[-1] == "median" and float(plain) >= 1 else 1)
    expected = "a duration in d, h, m, s, ms or us, above 0 and up to 365d"
    raise spot.wrong(expected, quote(format_duration(near)) if near else None)


def _integer(low: int, high: int, expected: str) -> Callable[[Spot], int]:
    def read(spot: Spot) -> int:
        if type(spot.value) is int and low <= spot.value <= high:
            return spot.value
        near = re.fullmatch(r'"?([0-9]{1,18})(\.0)?"?', show(spot.value))
        raise spot.wrong(expected, near[1] if near and low <= int(near[1]) <= high else None)

    return read


def _number(accepts: Callable[[float], bool], expected: str) -> Callable[[Spot], float]:
    def read(spot: Spot) -> float:
        if type(spot.value) in (int, float) and accepts(spot.value):
            return float(spot.value)
        raise spot.wrong(expected)

    return read


def _switch(spot: Spot) -> bool:
    if isinstance(spot.value, bool):
        return spot.value
    near = show(spot.value).strip('"').lower()
    raise spot.wrong("true or false", "false" if near in ("false", "no", "off", "0", "0.0") else "true")


def _one_of(*words: str) -> Callable[[Spot], str]:
    def read(spot: Spot) -> str:
        if spot.value in words:
            return str(spot.value)
        near = get_close_matches(str(spot.value), words, 1)
        raise spot.wrong(" or ".join(map(quote, words)), quote(near[0] if near else words[0]))

    return read


def _option(spot: Spot) -> str:
    if isinstance(spot.value, int | float):
        # A provider's options are text, its switches "1" and "0".
        near = str(int(spot.value)) if isinstance(spot.value, bool) else show(spot.value)
        raise spot.wrong("text in quotes", quote(near))
    return read_text(spot)


def _setting(spot: Spot) -> str | int | float | bool:
    value = spot.value
    if isinstance(value, str):
        return read_text(spot)
    # What lies beyond 64 bits cannot cross the pipe to the probe.
    if (isinstance(value, int) and -(2**63) <= value < 2**63) or (isinstance(value, float) and abs(value) < inf):
        return value
    raise spot.wrong("text, a finite number of up to 64 bits, true or false")


# A key's reader raises UsageError; its example stands in mends.
_MONITOR = {
    "listen": Key(_listen, '"127.0.0.1:10877"'),
    "state": Key(read_file, '"/var/lib/npumon"'),
    "interval": Key(_duration, '"60s"'),
    "audit_interval": Key(_duration, '"6h"'),
    "max_duty": Key(_number(lambda share: 0 < share <= 1, "a number above 0 and up to 1"), "0.02"),
}
_DEFAULTS = {
    "listen": ("127.0.0.1", 10877),
    "state": Path("/var/lib/npumon"),
    "interval": 60.0,
    "audit_interval": 6 * 3600.0,
    "max_duty": 0.02,
}
_WEB = {
    "tls_cert": Key(read_file, '"/etc/npumon/tls/board.crt"'),
    "tls_key": Key(read_file, '"/etc/npumon/tls/board.key"'),
    "client_ca": Key(read_file, '"/etc/npumon/tls/clients.crt"'),
    "allow": Key(access.networks, '["10.0.0.0/8", "::1"]'),
    "users": Key(access.users, '{ prometheus = "scrypt:…" }'),
}
_OPTIONS = Key(read_mapping(_option, '"value"'), '{ name = "value" }')
_RUNTIME = {"provider": Key(_provider, '"qnn"'), "options": _OPTIONS}
_GATE = {
    "npu_flops": Key(_number(lambda share: 0 <= share <= 1, "a number from 0 to 1"), "0.95"),
    "cv": Key(_number(lambda ratio: 0 < ratio < 2**1023, "a finite number above 0"), "0.15"),
    "median": Key(_duration, '"12ms"'),
    "output_error": Key(_number(lambda ratio: 0 < ratio < 2**1023, "a finite number above 0"), "0.1"),
    "production": Key(_number(lambda ratio: 1 < ratio < 2**1023, "a finite number above 1"), "2.0"),
}
_MODEL = {
    "name": Key(_name, '"detector"'),
    "path": Key(read_file, '"/opt/models/detector.onnx"'),
    "source": Key(read_file, '"/opt/models/src/detector.onnx"'),
    "samples": Key(read_file, '"/var/lib/npumon/samples/detector"'),
    "dims": Key(read_mapping(_integer(1, 2**63 - 1, "an integer of at least 1"), "1"), "{ batch = 1 }"),
    "options": _OPTIONS,
    "session": Key(read_mapping(_setting, "1"), "{ intra_op_num_threads = 1 }"),
    "replays": Key(_integer(2, 10_000, "an integer from 2 to 10000"), "30"),
    "resident": Key(_switch),
    "timeout": Key(_duration, '"30s"'),
    "memory": Key(lambda spot: 2**20 * _integer(64, 2**24, "an integer from 64 (MiB)")(spot), "1024"),
    "compare_outputs": Key(_switch),
    "second_look": Key(_one_of("audit", "deep"), '"audit"'),
    "gate": Key(lambda spot: Gate(**_table(spot, _GATE))),
}
_ROOT = {
    "monitor": Key(lambda spot: _table(spot, _MONITOR)),
    "web": Key(lambda spot: access.web(spot, _table(spot, _WEB))),
    "runtime": Key(lambda spot: _table(spot, _RUNTIME)),
    "models": Key(_models),
}
