"""Studies as files: made off the board, shipped beside the model, and used there instead of a run on the board's CPU.

A study costs a small board hundreds of megabytes and an unoptimized inference on its CPU, and gives the same on every
machine. ``npumon study`` writes it as ``<model file>.study.json``. A file is believed only if it was made of these very
bytes, for these dims and this kind of inputs, by this minor release of onnxruntime: another one may optimize the graph
in another way, and names would then be joined that do not belong together. What does not fit is told and ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, Protocol

import msgspec
from msgspec import Struct

from monitor import __version__
from monitor.errors import UsageError
from monitor.records import Study
from monitor.service import whole
from monitor.service.identity import sha256_of, version_of
from monitor.wire import Spec

SUFFIX: Final = ".study.json"
VERSION: Final = 1
SIZE_LIMIT: Final = 64 * 2**20  # a study of 360 nodes has 130 kB


class Studies(Protocol):
    """Where studies are kept between probe lives."""

    def study(self, key: str) -> Study | None: ...
    def put_study(self, key: str, study: Study) -> None: ...


class Memory:
    """Studies for the length of one command."""

    def __init__(self) -> None:
        self._studies: dict[str, Study] = {}

    def study(self, key: str) -> Study | None:
        return self._studies.get(key)

    def put_study(self, key: str, study: Study) -> None:
        self._studies[key] = study


class StudyFile(Struct, frozen=True, tag="npumon study", tag_field="format"):
    """The file's one JSON object. ``version`` changes with the format; ``npumon`` is the version that made it.

    ``source_sha256`` is that of the model that a precompiled one was made from. ``optimization_level`` is the session's
    ``graph_optimization_level``, empty for the runtime's default: it shapes the graph that is partitioned.
    """

    version: int
    npumon: str
    source_sha256: str | None
    optimization_level: str
    study: Study


def beside(model: Path) -> Path:
    """Where a study of ``model`` is looked for."""
    return model.with_name(model.name + SUFFIX)


def write(study: Study, spec: Spec, file: Path) -> None:
    """Put a ``study`` of ``spec`` into ``file``, whole or not at all; raises :class:`UsageError` if that fails."""
    content = StudyFile(VERSION, __version__, sha256_of(spec.source), _level(spec), study)
    text = msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"
    try:
        whole.write(file, text)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}; name a file in a folder that this user may write to") from error


def read(spec: Spec) -> tuple[Study | None, str | None]:
    """The study beside the model, and a sentence on it: that it is used, or why not. Neither where there is none."""
    file = beside(Path(spec.path))
    if not file.is_file():  # reading a pipe may block for ever
        return None, None
    try:
        with file.open("rb") as stream:
            data = stream.read(SIZE_LIMIT + 1)
    except OSError as error:
        return None, _ignored(file, error.strerror or str(error))
    try:
        content = _decode(data)
        mismatch = _mismatch(content, spec)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return None, _ignored(file, f"not a study of npumon ({error})")
    except OSError as error:  # the model itself: the session will say so
        return None, _ignored(file, error.strerror or str(error))
    if mismatch:
        return None, _ignored(file, mismatch)
    inputs = "synthetic inputs" if content.study.samples == "synthetic" else "input files"
    return content.study, f"FLOPs are those of {file.name}, made with {inputs}"


def _decode(data: bytes) -> StudyFile:
    if len(data) > SIZE_LIMIT:
        raise msgspec.ValidationError(f"more than {SIZE_LIMIT >> 20} MiB")
    content = msgspec.json.decode(data, type=StudyFile)
    nodes = range(len(content.study.nodes))
    if not all(execution.node in nodes for run in content.study.runs for execution in run):
        raise msgspec.ValidationError("an execution of a node that is not in it")
    return content


def _mismatch(content: StudyFile, spec: Spec) -> str | None:
    study = content.study
    wanted: Literal["files", "synthetic"] = "files" if spec.samples is not None else "synthetic"
    installed = version_of("onnxruntime")
    if content.version != VERSION:
        return f"format {content.version}, this npumon reads {VERSION}"
    if study.model_sha256 != sha256_of(spec.path):
        return "made of another file than this model"
    if content.source_sha256 != sha256_of(spec.source):
        return "made with another source model"
    if study.dims != spec.dims:
        return f"made for dims {_pairs(study.dims)}, this session has {_pairs(spec.dims)}"
    if study.samples != wanted:
        return f"made with {study.samples} inputs, this model has {wanted} ones"
    if content.optimization_level != _level(spec):
        return "made for another graph_optimization_level"
    if study.onnxruntime.split(".")[:2] != installed.split(".")[:2]:
        return f"made by onnxruntime {study.onnxruntime}, installed is {installed}"
    return None


def _ignored(file: Path, why: str) -> str:
    return f"{file.name} is ignored: {' '.join(why.split())}; make it again with npumon study"


def _level(spec: Spec) -> str:
    return str(spec.session.get("graph_optimization_level", ""))


def _pairs(dims: dict[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in dims.items()) or "none"
