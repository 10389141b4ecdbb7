"""A study as a file: made off the board, used there if it fits, told and ignored if not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest

from monitor import wire
from monitor.config import Model
from monitor.records import CheckResult, Profile, SessionFacts, Study
from monitor.service import studies
from monitor.service.check import Checker
from monitor.service.handle import ProbeHandle
from monitor.service.offboard import make_study
from monitor.service.studies import Memory
from tests import models
from tests.e2e.running import npumon

MADE = "studying the model on the CPU"


@pytest.fixture(scope="module")
def selu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, with its study beside it."""
    path = models.saved(models.selu_qdq(), tmp_path_factory.mktemp("studies"), "selu.onnx")
    make_study(Model(name="selu", path=path), studies.beside(path))
    return path


def audited(path: Path, **fields: Any) -> tuple[CheckResult, list[str], Study | None]:
    """An audit, what it did, and the study that it used."""
    steps: list[str] = []
    used: list[Study | None] = []

    def observe(facts: SessionFacts, study: Study | None, profile: Profile | None) -> None:
        used.append(study)

    model = Model(**{"name": "m", "path": path, "options": {"soc_model": "58"}, "timeout": 60.0, **fields})
    checker = Checker(model, "qnn", float("inf"), Memory(), steps.append, observe)
    try:
        result = checker.check(replays=False)
    finally:
        checker.close()
    return result, steps, used[0]


def notes(result: CheckResult) -> str:
    """What was told with the placement."""
    assert result.placement is not None
    return "\n".join(result.placement.notes)


def test_file_beside_the_model_spares_the_run_on_the_cpu(selu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process is asked for a study, the shares are those of the file's, and a note says so."""
    asked: list[type] = []
    request: Callable[..., Any] = ProbeHandle.request

    def listen(self: ProbeHandle, message: wire.Request, timeout: float) -> Any:
        asked.append(type(message))
        return request(self, message, timeout)

    monkeypatch.setattr(ProbeHandle, "request", listen)
    result, steps, study = audited(selu)
    assert asked[:2] == [wire.Open, wire.Audit]
    assert wire.MakeStudy not in asked
    assert MADE not in steps
    assert study == msgspec.json.decode(studies.beside(selu).read_bytes(), type=studies.StudyFile).study
    assert "FLOPs are those of selu.onnx.study.json, made with synthetic inputs" in notes(result)
    assert result.placement is not None
    assert [op.node for op in result.placement.ops if op.flops_ratio] == ["selu"]


def test_a_file_is_what_the_board_would_have_made(selu: Path, tmp_path: Path) -> None:
    """Without the file the same model is studied by a process, with the same outcome."""
    alone = tmp_path / selu.name
    alone.write_bytes(selu.read_bytes())
    result, steps, study = audited(alone)
    assert MADE in steps
    assert study == msgspec.json.decode(studies.beside(selu).read_bytes(), type=studies.StudyFile).study
    assert "study.json" not in notes(result)


def _version(file: dict[str, Any]) -> None:
    file["version"] = 2


def _sha256(file: dict[str, Any]) -> None:
    file["study"]["model_sha256"] = "0" * 64


def _source(file: dict[str, Any]) -> None:
    file["source_sha256"] = "0" * 64


def _dims(file: dict[str, Any]) -> None:
    file["study"]["dims"] = {"batch": 2}


def _samples(file: dict[str, Any]) -> None:
    file["study"]["samples"] = "files"


def _level(file: dict[str, Any]) -> None:
    file["optimization_level"] = "ORT_DISABLE_ALL"


def _runtime(file: dict[str, Any]) -> None:
    file["study"]["onnxruntime"] = "1.2.3"


def _node(file: dict[str, Any]) -> None:
    file["study"]["runs"][0][0]["node"] = 10_000


def _missing(file: dict[str, Any]) -> None:
    del file["study"]["partitioned"]


def _other(file: dict[str, Any]) -> None:
    file["format"] = "something else"


MISFITS = [
    (_version, "format 2, this npumon reads 1"),
    (_sha256, "made of another file than this model"),
    (_source, "made with another source model"),
    (_dims, "made for dims batch=2, this session has none"),
    (_samples, "made with files inputs, this model has synthetic ones"),
    (_level, "made for another graph_optimization_level"),
    (_runtime, "made by onnxruntime 1.2.3, installed is"),
    (_node, "an execution of a node that is not in it"),
    (_missing, "not a study of npumon"),
    (_other, "not a study of npumon"),
]


@pytest.mark.parametrize(("change", "words"), MISFITS, ids=[change.__name__[1:] for change, _ in MISFITS])
def test_a_file_that_does_not_fit_is_not_believed(
    selu: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    """Each condition alone makes a file that is otherwise right useless, in one sentence that names it and the mend."""
    path = tmp_path / selu.name
    path.write_bytes(selu.read_bytes())
    file = json.loads(studies.beside(selu).read_bytes())
    spec = wire.Spec(name="m", path=str(path), provider="qnn")
    studies.beside(path).write_text(json.dumps(file))
    assert studies.read(spec)[0] is not None
    change(file)
    studies.beside(path).write_text(json.dumps(file))
    study, note = studies.read(spec)
    assert study is None
    assert note is not None
    assert "\n" not in note
    assert note.startswith("selu.onnx.study.json is ignored: ")
    assert words in note
    assert note.endswith("make it again with npumon study")


@pytest.mark.parametrize("content", [b"", b"\x00\xff", b"[" * 100_000, b'{"format":"npumon study"}'])
def test_a_damaged_file_costs_nothing_but_the_run(selu: Path, tmp_path: Path, content: bytes) -> None:
    """What does not decode is told and ignored: the audit makes its own study and has the same shares."""
    path = tmp_path / selu.name
    path.write_bytes(selu.read_bytes())
    studies.beside(path).write_bytes(content)
    study, note = studies.read(wire.Spec(name="m", path=str(path), provider="qnn"))
    assert study is None
    assert note is not None
    assert "is ignored: not a study of npumon" in note


def test_an_ignored_file_is_told_with_the_result(selu: Path, tmp_path: Path) -> None:
    """The whole audit with a file of another model: it studies by itself, and the note reaches the user."""
    path = models.saved(models.well_named(), tmp_path, "other.onnx")
    studies.beside(path).write_bytes(studies.beside(selu).read_bytes())
    result, steps, study = audited(path, options={"soc_model": "60"})
    assert MADE in steps
    assert study is not None
    assert len(study.nodes) == 2
    assert "other.onnx.study.json is ignored: made of another file than this model" in notes(result)


def test_a_pipe_beside_the_model_blocks_nothing(tmp_path: Path) -> None:
    """Only a regular file is read."""
    path = models.saved(models.well_named(), tmp_path)
    os.mkfifo(studies.beside(path))
    assert studies.read(wire.Spec(name="m", path=str(path), provider="qnn")) == (None, None)


def test_the_command_writes_what_a_check_reads(tmp_path: Path) -> None:
    """``npumon study`` with dims and real samples: code 0, one versioned JSON object, believed for these dims only."""
    path = models.saved(models.free_dims("batch", 8), tmp_path, "free.onnx")
    samples = tmp_path / "samples"
    samples.mkdir()
    np.savez(samples / "one.npz", x=np.zeros((3, 8), np.float32))
    out = studies.beside(path)
    done = npumon("study", path, "--out", out, "--dim", "batch=3", "--samples", samples)
    assert (done.code, done.err) == (0, "")
    assert "1 node, files as inputs" in done.out
    file = json.loads(out.read_bytes())
    assert (file["format"], file["version"]) == ("npumon study", 1)
    assert file["study"]["onnxruntime"] == onnxruntime.__version__
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("free.onnx.study")] == [out.name]
    spec = wire.Spec(name="m", path=str(path), provider="qnn", samples=str(samples), dims={"batch": 3})
    assert studies.read(spec)[0] is not None
    assert studies.read(msgspec.structs.replace(spec, dims={"batch": 4}))[0] is None


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("{model}",), 2, "Missing option '--out'"),
        (("{model}", "--out", "{folder}/nowhere/x.json"), 2, "name a file in a folder that this user may write to"),
        (("{folder}/none.onnx", "--out", "{folder}/x.json"), 3, "No such file"),
        (("{model}", "--out", "{folder}/x.json", "--dim", "nope=1"), 3, "no such free dimension"),
    ],
)
def test_what_cannot_be_studied_is_one_line(tmp_path: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    """Bad arguments are code 2, a model that cannot be run code 3; no file is left behind."""
    model = models.saved(models.well_named(), tmp_path)
    done = npumon("study", *(argument.format(model=model, folder=tmp_path) for argument in arguments))
    assert done.code == code
    assert words in done.err
    assert done.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [model.name]
