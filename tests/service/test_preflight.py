"""A preflight on the real simulator: the mixed fleet of DESIGN, section 2, fact 12, predicted from one machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from monitor.config import Model
from monitor.service import studies
from monitor.service.offboard import make_study
from tests import models
from tests.e2e.running import Done, npumon


@pytest.fixture(scope="module")
def selu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quantized network with one Selu, its study beside it."""
    path = models.saved(models.selu_qdq(), tmp_path_factory.mktemp("preflight"), "selu.onnx")
    make_study(Model(name="selu", path=path), studies.beside(path))
    return path


@pytest.fixture(scope="module")
def done(selu: Path) -> Done:
    """The matrix as JSON."""
    return npumon("preflight", selu, "--soc", "57,58,60,80,0", "--json")


@pytest.fixture(scope="module")
def socs(done: Done) -> dict[str, dict[str, Any]]:
    """SoC -> its entry."""
    return {entry["soc"]: entry for entry in json.loads(done.out)["socs"]}


def test_a_mixed_fleet_is_told_apart(done: Done, socs: dict[str, dict[str, Any]]) -> None:
    """57 and 60 take the model whole, 58 loses exactly the Selu, 80 loses everything, 0 has no session; exit code 1."""
    assert done.code == 1
    assert json.loads(done.out)["prediction"] is True
    assert json.loads(done.out)["notes"] == ["FLOPs are those of selu.onnx.study.json, made with synthetic inputs"]
    assert list(socs) == ["57", "58", "60", "80", "0"]
    for whole in ("57", "60"):
        assert socs[whole]["npu_flops_ratio"] == 1
        assert socs[whole]["nodes"]["cpu"] == 0
        assert socs[whole]["verdict"] == "healthy"
    assert [op["node"] for op in socs["58"]["ops"] if op["flops_ratio"]] == ["selu"]
    assert "ELU" in socs["58"]["ops"][0]["reason"]
    assert socs["80"]["npu_flops_ratio"] == 0
    assert socs["80"]["nodes"]["accelerator"] == 0
    assert socs["80"]["verdict"] == "fallback"
    assert socs["0"]["verdict"] == "unknown"
    assert socs["0"]["error"]["reason"] == "session_failed"
    assert "1002" in socs["0"]["error"]["detail"]
    assert "npu_flops_ratio" not in socs["0"]


def test_nothing_is_timed(socs: dict[str, dict[str, Any]]) -> None:
    """A preflight creates sessions and runs none of them: it has neither a time share nor hand-offs."""
    assert not {"npu_time_ratio", "handoffs"} & socs["57"].keys()


def test_each_session_gets_its_own_soc(socs: dict[str, dict[str, Any]]) -> None:
    """What a session reports as its options names the SoC of its row, which the provider's own module has put there."""
    assert [socs[soc]["runtime"]["options"] for soc in ("57", "58", "60")] == [
        {"soc_model": soc} for soc in ("57", "58", "60")
    ]


def test_soc_that_cannot_be_predicted_is_exit_code_3(selu: Path) -> None:
    """Without any fallback, a SoC without a session is no success: code 3, a row with the cause, no traceback."""
    done = npumon("preflight", selu, "--soc", "60,0")
    assert done.code == 3
    assert any(line.startswith("0 ") and "no session: Failed to finalize" in line for line in done.out.splitlines())
    assert max(map(len, done.out.splitlines())) <= 100


def test_all_whole_is_exit_code_0(selu: Path) -> None:
    """Every SoC takes the model: code 0, and it still says that it only predicts."""
    done = npumon("preflight", selu, "--soc", "60")
    assert done.code == 0
    assert "PREDICTION" in done.out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--soc", " , "), 2, "write --soc 57,58,60"),
        ((), 2, "Missing option '--soc'"),
        (("--soc", "60", "--dim", "batch=x"), 2, "write --dim batch=1"),
        (("--soc", "60", "--dim", "batch=1"), 3, "no such free dimension"),
    ],
)
def test_mistakes_are_one_line(selu: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    """Arguments that cannot be used, and a model that cannot, are one line with the mend."""
    done = npumon("preflight", selu, *arguments)
    assert done.code == code
    assert words in done.err
    assert done.err.count("\n") == 1


def test_provider_that_selects_no_soc(tmp_path: Path, selu: Path) -> None:
    """A provider that npumon does not know in particular says that it cannot select a SoC, instead of ignoring it."""
    package = tmp_path / "onnxruntime_other"
    package.mkdir()
    (package / "__init__.py").write_text(
        "def get_library_path():\n    return __file__\n\n\ndef get_ep_name():\n    return 'OtherExecutionProvider'\n"
    )
    done = npumon("preflight", selu, "--soc", "60", "--provider", "other", "--json", PYTHONPATH=str(tmp_path))
    assert done.code == 3
    (entry,) = json.loads(done.out)["socs"]
    assert "does not know its option that selects a SoC" in entry["error"]["detail"]
    assert json.loads(done.out)["prediction"] is False
