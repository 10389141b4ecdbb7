"""Whatever is deployed in a model's place costs that model its check, in words that say what to do; mended, it is back.

The daemon is the real one with real probes on the real runtime. Models are broken when it starts, and mended under it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import onnx
import pytest

from monitor.probe import demo_model
from monitor.probe.deployed import LARGEST_PROTOBUF
from monitor.records import Failure
from monitor.service.life import Keeper
from tests import models
from tests.compiling import compiled
from tests.e2e.running import wait_until
from tests.faults.faulty import SOUND, Faulty, faulty, watched
from tests.probing import audited, refused

DEPLOY = "deploy the model or correct models.path"
COPY = "copy the model to the board again and compare its checksum"
BESIDE = "deploy it beside the model"


class Case(NamedTuple):
    """A broken model and the failure that it must be; {} is its folder."""

    name: str
    reason: str
    detail: str
    mend: str


CASES = (
    Case("truncated", "model_invalid", "{}/m.onnx: it does not parse as ONNX (truncated?)", COPY),
    Case("empty", "model_invalid", "{}/m.onnx: it holds no graph (truncated, or not ONNX)", COPY),
    Case("loop", "model_missing", "{}/m.onnx: Too many levels of symbolic links", DEPLOY),
    Case("below_a_file", "model_missing", "{}/m.onnx: Not a directory", DEPLOY),
    Case("pipe", "model_missing", "{}/m.onnx: not a regular file", DEPLOY),
    Case("device", "model_missing", "{}/m.onnx: not a regular file", DEPLOY),
    Case("source_pipe", "model_missing", "{}/source.onnx: not a regular file", DEPLOY),
    Case(
        "weights_missing",
        "model_missing",
        "{}/weights.bin: the model's external data cannot be read: No such file or directory",
        BESIDE,
    ),
    Case(
        "weights_pipe",
        "model_missing",
        "{}/weights.bin: the model's external data cannot be read: not a regular file",
        BESIDE,
    ),
    Case(
        "weights_cut",
        "model_invalid",
        "{}/weights.bin: the model's external data is cut: 100 bytes of at least 16384",
        "copy it to the board again and compare its checksum",
    ),
    Case(
        "weights_outside",
        "model_invalid",
        "{}/m.onnx: its external data ../outside.bin lies outside of its folder, which the runtime refuses",
        "export the model again with its data beside it",
    ),
)


def deploy(case: str, folder: Path, good: Path) -> Path:
    """The model of this case in a folder of its own, broken."""
    folder.mkdir()
    path = folder / "m.onnx"
    if case == "truncated":
        path.write_bytes(good.read_bytes()[:1000])
    elif case == "empty":
        path.touch()
    elif case == "loop":
        path.symlink_to(path.name)
    elif case == "below_a_file":
        folder.rmdir()
        folder.touch()
    elif case == "pipe":
        os.mkfifo(path)
    elif case == "device":
        path.symlink_to("/dev/zero")
    elif case == "source_pipe":
        shutil.copy(good, path)
        os.mkfifo(folder / "source.onnx")
    elif case.startswith("weights"):
        models.external(folder).rename(path)
        break_weights(case, path, folder / "weights.bin")
    return path


def break_weights(case: str, path: Path, weights: Path) -> None:
    """Do to the file beside the model what the case is about."""
    if case == "weights_cut":
        os.truncate(weights, 100)
    elif case == "weights_outside":
        weights.rename(weights.parents[1] / "outside.bin")
        proto = onnx.load(str(path), load_external_data=False)
        proto.graph.initializer[0].external_data[0].value = "../outside.bin"
        path.write_bytes(proto.SerializeToString())
    else:
        weights.unlink()
        if case == "weights_pipe":
            os.mkfifo(weights)


def mend(folder: Path, good: Path) -> None:
    """Deploy a model as it should be done: whole, and by one rename."""
    if folder.is_dir():
        for left in folder.iterdir():
            left.unlink()
    else:
        folder.unlink()
        folder.mkdir()
    shutil.copy(good, folder / ".m.onnx")
    shutil.copy(good, folder / "source.onnx")
    (folder / ".m.onnx").rename(folder / "m.onnx")


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory, good: Path) -> Iterator[Faulty]:
    """One daemon with all of them, and a sound one."""
    folder = tmp_path_factory.mktemp("ward")
    broken = {case.name: watched(deploy(case.name, folder / case.name, good)) for case in CASES}
    broken["source_pipe"]["source"] = folder / "source_pipe" / "source.onnx"
    with faulty(folder, {**broken, SOUND: watched(good)}) as sick:
        yield sick
        assert sick.failures(SOUND) == {}
        assert not sick.daemon.told("check_failed", SOUND)
        wait_until(lambda: not sick.zombies(), "zombies are reaped")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_broken_model_is_told_once(ward: Faulty, case: Case) -> None:
    """Reason, sentence and mend stand in one event, nothing is measured, and the sound model is checked on."""
    (failed,) = ward.daemon.told("check_failed", case.name)
    detail = case.detail.format(ward.temporary.parent / case.name)
    assert failed["error"] == {"reason": case.reason, "detail": detail, "mend": case.mend}
    assert ward.failures(case.name).keys() == {case.reason}
    assert ward.daemon.metric("verdict", model=case.name, state="unknown") == 1
    assert ward.daemon.metric("latency_median_seconds", model=case.name) is None
    assert ward.daemon.metric("verdict", model=SOUND, state="healthy") == 1
    ward.answers()


QUICK = frozenset({"truncated", "source_pipe", "weights_cut"})


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=() if case.name in QUICK else pytest.mark.slow) for case in CASES],
    ids=lambda case: case.name,
)
def test_a_model_that_is_mended_is_checked(ward: Faulty, good: Path, case: Case) -> None:
    """Once it is deployed as it should be, the incident is over, by its id, and the model is healthy."""
    (failed,) = ward.daemon.told("check_failed", case.name)
    checked = ward.daemon.checks(SOUND)
    mend(ward.temporary.parent / case.name, good)
    recovered = ward.event("check_recovered", case.name)
    assert recovered["id"] == failed["id"]
    assert ward.failures(case.name).keys() == {case.reason}
    assert len(ward.daemon.told("check_failed", case.name)) == 1
    assert ward.daemon.metric("verdict", model=case.name, state="healthy") == 1
    wait_until(lambda: ward.daemon.checks(SOUND) > checked, "the sound model is checked on")


# ------------------------------------------------------------------------------------------- replaced in a check


def other(folder: Path) -> Path:
    """A model with the same inputs that the accelerator takes only in part."""
    return models.saved(models.selu_qdq(), folder, "other.onnx")


def sha256_of(path: Path) -> str:
    """What events call a model by."""
    from monitor.service.identity import sha256_of

    return str(sha256_of(str(path)))


STEPS = ("studying the model on the CPU", "creating the session", "profiling", "comparing outputs with the CPU's")


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_a_model_replaced_in_a_check_is_measured_as_one(
    tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whenever the file is replaced, hash, FLOPs, placement and outputs are the new one's, as if nothing had been."""
    path, new = tmp_path / "m.onnx", other(tmp_path)
    shutil.copy(good, path)
    expected = audited(new, options={"soc_model": "58"})
    steps: list[str] = []
    init = Keeper.__init__

    def deploy_at(self: Keeper, *arguments: object) -> None:
        init(self, *arguments)  # type: ignore[arg-type]

        def progress(said: str) -> None:
            steps.append(said)
            if steps.count(step) == 1 and said == step:
                shutil.copy(new, tmp_path / "new.onnx")
                (tmp_path / "new.onnx").rename(path)

        self._progress = progress

    monkeypatch.setattr(Keeper, "__init__", deploy_at)
    result = audited(path, options={"soc_model": "58"})
    assert steps.count("creating the session") == 2
    assert result.error is None
    assert (result.model_sha256, result.verdict) == (sha256_of(new), expected.verdict)
    assert result.placement is not None
    assert expected.placement is not None
    assert result.placement.npu_flops_ratio == expected.placement.npu_flops_ratio
    assert result.placement.total_flops == expected.placement.total_flops
    assert result.placement.unattributed_flops_ratio == 0
    assert result.agreement == expected.agreement


def test_a_model_that_never_rests_is_not_measured(tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is replaced at each try is a failure that says so, not a mixture."""
    path = tmp_path / "m.onnx"
    shutil.copy(good, path)
    make = Keeper._make

    def replaced(self: Keeper, identity: tuple[object, ...]) -> object:
        try:
            return make(self, identity)
        finally:
            shutil.copy(good, tmp_path / "new.onnx")
            (tmp_path / "new.onnx").rename(path)

    monkeypatch.setattr(Keeper, "_make", replaced)
    detail = f"{path}: the model was replaced twice while it was being measured"
    assert audited(path, compare_outputs=False).error == Failure("model_invalid", detail, "let it rest for one check")


@pytest.mark.slow
def test_a_deployment_under_a_running_daemon_is_old_or_new(tmp_path: Path, good: Path) -> None:
    """A dozen deployments at any time: each event's hash fits its verdict, and the last model is the one that stays."""
    path, bad = tmp_path / "m.onnx", other(tmp_path)
    shutil.copy(good, path)
    sick_model = {**watched(path), "options": {"soc_model": "58"}, "gate": {"npu_flops": 0.99}}
    healthy, fallen = sha256_of(good), sha256_of(bad)
    with faulty(tmp_path, {"m": sick_model, SOUND: watched(good)}) as sick:
        for number in range(11):
            shutil.copy((bad, good)[number % 2], tmp_path / "new.onnx")
            (tmp_path / "new.onnx").rename(path)
            time.sleep(0.4 + 0.13 * number % 1)
        sick.event("fallback_detected", "m")
        wait_until(lambda: sick.daemon.metric("verdict", model="m", state="fallback") == 1, "the last model's verdict")
        sick.daemon.wait_checks("m")
        assert sick.daemon.metric("verdict", model="m", state="fallback") == 1
        lines = [line for line in sick.daemon.lines if line.get("model") == "m" and "model_sha256" in line]
        for line in lines:
            if line["event"] == "fallback_detected":
                assert line["model_sha256"] == fallen
                assert {op["op_type"] for op in line["ops"]} == {"Selu"}
            if line["event"] == "fallback_cleared":
                assert line["model_sha256"] == healthy
        assert sick.daemon.told("model_changed", "m")[-1]["model_sha256"] == fallen
        for line in sick.daemon.told("check_failed", "m"):
            assert line["reason"] == f"{path}: the model was replaced twice while it was being measured"
        assert sick.failures(SOUND) == {}


# ----------------------------------------------------------------------------------------------------- contexts


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A precompiled model whose binary lies in a file beside it."""
    source = models.saved(demo_model.build(), tmp_path_factory.mktemp("context"), "source.onnx")
    return compiled(source, embed=False)


def binary_of(context: Path) -> Path:
    """The file beside it."""
    return context.with_name(f"{context.stem}_qnn.bin")


CONTEXT = "INVALID_GRAPH : Failed to load from EpContext model."
INFO = "Failed to get context binary info."


def test_a_context_s_binary_that_is_broken_is_told_and_mended(tmp_path: Path, good: Path, context: Path) -> None:
    """Missing, cut, or such that loading it kills the process: each is a failure of that model alone."""
    deployed, cut = tmp_path / context.name, tmp_path / "cut" / context.name
    binary, whole = binary_of(deployed), binary_of(context).read_bytes()
    cut.parent.mkdir()
    for path in (deployed, cut):
        shutil.copy(context, path)
    binary_of(cut).write_bytes(whole[: len(whole) // 3])
    with faulty(tmp_path, {"m": watched(deployed), "cut": watched(cut), SOUND: watched(good)}) as sick:
        corrupt = sick.event("check_failed", "cut")
        assert (corrupt["error"]["reason"], corrupt["cause"]) == ("session_failed", "context_mismatch")
        binary_of(cut).write_bytes(whole)
        os.utime(cut)
        assert sick.event("check_recovered", "cut")["id"] == corrupt["id"]
        missing = sick.event("check_failed", "m")
        detail = f"{binary}: the context's binary cannot be read: No such file or directory"
        assert missing["error"] == {
            "reason": "model_missing", "detail": detail, "mend": BESIDE, "cause": "context_mismatch"
        }  # fmt: skip
        binary.write_bytes(whole)
        sick.event("check_recovered", "m")
        before = sick.at_rest()
        sick.commit("m", "segfault", "Open")
        os.utime(deployed)  # deployed anew, it is loaded anew
        dead = sick.event("check_failed", "m", 2)
        assert dead["error"]["reason"] == "probe_crashed"
        assert dead["error"]["detail"].startswith("the probe died of SIGSEGV")
        sick.event("check_recovered", "m", 2)
        sick.is_as(before)
        assert sick.failures(SOUND) == {}


@pytest.mark.parametrize(
    ("content", "words", "mend"),
    [
        (b"", "Empty cache file encountered.", "compile the context again on this board's SDK; its binary may be cut"),
        (bytes(69_632), INFO, "recompile the context with the SDK and for the SoC of this board"),
        (None, INFO, "recompile the context with the SDK and for the SoC of this board"),
    ],
    ids=["empty", "zeros", "cut"],
)
def test_a_corrupt_binary(tmp_path: Path, context: Path, content: bytes | None, words: str, mend: str) -> None:
    """The runtime's own words, as a mismatch of the context, with what mends it."""
    deployed = tmp_path / context.name
    shutil.copy(context, deployed)
    whole = binary_of(context).read_bytes()
    binary_of(deployed).write_bytes(whole[: len(whole) // 3] if content is None else content)
    failure = refused(deployed)
    assert (failure.reason, failure.cause, failure.mend) == ("session_failed", "context_mismatch", mend)
    assert failure.detail.startswith(f"{deployed}: [ONNXRuntimeError] : 10 : {CONTEXT} {words}")


def test_a_binary_beside_a_context_whose_leftovers_have_no_names(tmp_path: Path) -> None:
    """A copy in memory, whose nodes are named, still finds what lies beside the file."""
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        onnx.helper.make_node("Sinh", ["c"], ["y"]),
    ]
    shape = [1, 4, 8, 8]
    main = models.graph(nodes, [models.value("x", shape)], [models.value("y", shape)], {"w": models.floats(4, 4, 3, 3)})
    source = models.saved(models.model(main), tmp_path, "source.onnx")
    result = audited(compiled(source, embed=False), source=source)
    assert result.error is None
    assert result.placement is not None
    assert [op.op_type for op in result.placement.ops] == ["Sinh"]


def test_a_file_beyond_what_protobuf_holds_is_not_read(tmp_path: Path) -> None:
    """What was named by mistake, or has its weights within, is refused by its size."""
    path = tmp_path / "m.onnx"
    path.touch()
    os.truncate(path, LARGEST_PROTOBUF + 1)
    failure = refused(path)
    detail = f"{path}: it has more than the 2 GiB that a model can have without external data"
    assert failure == Failure("model_invalid", detail, "correct models.path, or export with external data")
