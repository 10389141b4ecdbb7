"""The files that a model consists of: read once, and refused if they are not what the runtime will look for.

Deploying is what breaks models: files are cut, forgotten, replaced in the midst of a check. What is wrong is told by
the file's name, and what is no regular file is never waited for.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from onnx import NodeProto, TensorProto

from monitor.errors import MeasureError, mend_of
from monitor.records import Failure

LARGEST_PROTOBUF: Final = 2**31 - 1
"""Bytes; protobuf's own limit."""


def read(path: Path) -> bytes:
    """The file's bytes, read once, so that hash and graph are those of one file, whatever is deployed meanwhile."""
    try:
        # without blocking: opening a pipe would wait for a writer
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            data = file.read(facts.st_size + 1) if facts.st_size <= LARGEST_PROTOBUF else None
    except OSError as error:
        raise MeasureError(Failure("model_missing", f"{path}: {error.strerror or error}", mend_of(error))) from error
    if data is None:
        detail = f"{path}: it has more than the 2 GiB that a model can have without external data"
        raise MeasureError(Failure("model_invalid", detail, "correct models.path, or export with external data"))
    return data


def check_external(model: Path, tensors: Iterable[TensorProto]) -> None:
    """See that the files which hold ``tensors`` are where the runtime looks for them, and long enough.

    The runtime says so too, in its own terms, but waits for ever for a pipe. Raises :class:`MeasureError`.
    """
    ends: dict[str, int] = {}
    for tensor in tensors:
        if tensor.data_location == TensorProto.EXTERNAL:
            given = {entry.key: entry.value for entry in tensor.external_data}
            start, length = (int(n) if (n := given.get(key, "0")).isdecimal() else 0 for key in ("offset", "length"))
            location = given.get("location", "")
            ends[location] = max(ends.get(location, 0), start + length)
    for location, end in ends.items():
        _check_weights(model, location, end)


def _check_weights(model: Path, location: str, end: int) -> None:
    path = model.parent / location
    try:
        homes = {model.parent.resolve(), model.resolve().parent}
        inside = not location.startswith("/") and any(path.resolve().is_relative_to(home) for home in homes)
        facts = os.stat(path)
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links; a NUL
        why = getattr(error, "strerror", "") or str(error)
        raise MeasureError(unreadable(path, why)) from error
    if not inside:
        detail = f"{model}: its external data {location} lies outside of its folder, which the runtime refuses"
        raise MeasureError(Failure("model_invalid", detail, "export the model again with its data beside it"))
    if why := _hindrance(path, facts):
        raise MeasureError(unreadable(path, why))
    if facts.st_size < end:
        detail = f"{path}: the model's external data is cut: {facts.st_size} bytes of at least {end}"
        raise MeasureError(Failure("model_invalid", detail, "copy it to the board again and compare its checksum"))


def check_context(model: Path, node: NodeProto) -> None:
    """See that a context's binary is where its node says, if not in it. Raises :class:`MeasureError`."""
    given = {attribute.name: attribute for attribute in node.attribute}
    if "embed_mode" not in given or given["embed_mode"].i or "ep_cache_context" not in given:
        return
    if not (name := given["ep_cache_context"].s.decode("utf-8", "replace")):
        return  # it shares another node's
    path = model.parent / name
    try:
        why = _hindrance(path, os.stat(path))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", "") or str(error)
    if why:
        detail = f"{path}: the context's binary cannot be read: {why}"
        raise MeasureError(Failure("model_missing", detail, "deploy it beside the model", "context_mismatch"))


def _hindrance(path: Path, facts: os.stat_result) -> str:
    """Why the runtime cannot read a file that is there; nothing if it can."""
    if not stat.S_ISREG(facts.st_mode):
        return "not a regular file"
    return "" if os.access(path, os.R_OK) else os.strerror(errno.EACCES)


def unreadable(path: Path, why: str) -> Failure:
    """A file that a model's weights should be in."""
    detail = f"{path}: the model's external data cannot be read: {why}"
    return Failure("model_missing", detail, "deploy it beside the model")
