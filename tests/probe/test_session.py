"""Sessions on the real execution provider: made as configured, and honest about what came up.

Each test has a child process of its own, since the provider's options leak between the sessions of one process.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from monitor import wire
from monitor.records import Failure, SessionFacts
from monitor.service.handle import ProbeHandle
from tests import models
from tests.probing import TIMEOUT, audited, opened, refused, spec


@pytest.fixture
def selu(tmp_path: Path) -> Path:
    """The quantized network with one Selu."""
    return models.saved(models.selu_qdq(), tmp_path)


def on_cpu(facts: SessionFacts) -> set[str]:
    """Names of the nodes that were placed on the CPU."""
    return {p.name for p in facts.placement if p.processor == "cpu"}


def test_a_healthy_session_says_what_really_runs(selu: Path) -> None:
    """The simulator is called a simulator, the versions are those of the log, and no fault is found."""
    facts = opened(selu)
    assert facts.runtime.target == "simulator"
    assert facts.runtime.backend_version is not None
    assert facts.runtime.backend_version.startswith("v2.")
    assert facts.runtime.options == {"soc_model": "60"}
    assert facts.faults == ()
    assert "selu" not in on_cpu(facts)
    assert facts.create_seconds > 0
    assert facts.notes == ()


def test_one_op_is_refused_on_another_soc(selu: Path) -> None:
    """On soc_model 58 exactly the Selu is added to what stays on the CPU, with the provider's reason."""
    facts = opened(selu, options={"soc_model": "58"})
    assert on_cpu(facts) - on_cpu(opened(selu)) == {"selu"}
    (rejection,) = [r for r in facts.rejections if r.node == "selu"]
    assert (rejection.op_type, rejection.reason, rejection.kind) == (
        "Selu",
        "Selu: failed to create ELU node.",
        "backend",
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"soc_model": "9999"}, "QNN_DEVICE_ERROR_INVALID_CONFIG"),
        ({"soc_model": "80"}, "QNN_DEVICE_ERROR_INVALID_CONFIG"),
        ({"soc_model": "60", "backend_path": "/nonexistent/libQnnHtp.so"}, "/nonexistent/libQnnHtp.so: cannot open"),
        ({"soc_model": "60", "device_id": "7"}, "Could not find device with ID = 7"),
    ],
    ids=["unknown soc", "unsupported soc", "backend path", "device id"],
)
def test_an_accelerator_that_does_not_come_up_is_no_simulator(options: dict[str, str], said: str, selu: Path) -> None:
    """The session is created and lists the provider, but what runs is the CPU, and the fault says why."""
    facts = opened(selu, options=options)
    assert facts.runtime.target == "cpu"
    assert {p.processor for p in facts.placement} == {"cpu"}
    (fault,) = facts.faults
    assert fault.kind == "accelerator_unavailable"
    assert said in fault.message
    assert fault.mend


def test_an_option_with_a_typing_mistake_is_reported(selu: Path) -> None:
    """The runtime says nothing about an option that nobody reads; npumon names it, and the check goes on."""
    result = audited(selu, options={"soc_model": "60", "htp_performance_mod": "burst"})
    assert result.verdict == "healthy"
    assert result.notes == (
        "options.htp_performance_mod: the execution provider qnn does not know this option and ignores it; "
        "correct or remove options.htp_performance_mod",
    )


def test_an_options_value_with_a_typing_mistake_is_reported(selu: Path) -> None:
    """A value that the provider replaces by its default with no more than a warning is named."""
    facts = opened(selu, options={"soc_model": "60", "htp_performance_mode": "brust"})
    assert [(f.kind, f.message) for f in facts.faults] == [
        ("option_ignored", "an option's value is ignored: Htp performance mode not valid.")
    ]


def test_a_dimension_that_does_not_exist(tmp_path: Path) -> None:
    """The runtime ignores a wrong override silently; npumon does not."""
    path = models.saved(models.free_dims("batch", 8), tmp_path)
    detail = f"{path}: dims.bacth: no such free dimension"
    assert refused(path, dims={"bacth": 1}) == Failure("dims_unknown", detail, "the model has: batch")


def test_a_model_without_free_dimensions(selu: Path) -> None:
    """Where no dimension has a name, the mend says so."""
    assert refused(selu, dims={"batch": 1}).mend == "the model has: none with a name"


@pytest.mark.parametrize(
    ("settings", "detail", "mend"),
    [
        (
            {"intra_op_num_thread": 1},
            "session.intra_op_num_thread: SessionOptions has no such attribute",
            "correct the name; a session config entry has a dot in its name",
        ),
        (
            {"intra_op_num_threads": "one"},
            "session.intra_op_num_threads: 'one' is refused",
            "write another type of value",
        ),
        (
            {"execution_mode": "ORT_SEQUENTAIL"},
            "session.execution_mode: 'ORT_SEQUENTAIL' is refused",
            "write one of ORT_SEQUENTIAL, ORT_PARALLEL",
        ),
        (
            {"add_session_config_entry": 1},
            "session.add_session_config_entry: 1 is refused",
            "write another type of value",
        ),
    ],
)
def test_a_session_setting_that_does_not_exist(
    settings: dict[str, str | int], detail: str, mend: str, selu: Path
) -> None:
    """A mistyped attribute or value is named, with what is allowed."""
    assert refused(selu, session=settings) == Failure("session_failed", detail, mend)


def test_session_settings_are_the_applications(tmp_path: Path) -> None:
    """Settings go through verbatim: without optimization the runtime partitions the model as shipped."""
    path = models.saved(models.fusions(), tmp_path)
    facts = opened(path, session={"graph_optimization_level": "ORT_DISABLE_ALL", "intra_op_num_threads": 1})
    assert "BatchNormalization" in {p.op_type for p in facts.placement}
    assert "BatchNormalization" not in {p.op_type for p in opened(path).placement}


def test_a_provider_that_is_not_installed(selu: Path) -> None:
    """The failure names the package and how to get it."""
    failure = refused(selu, provider="nonesuch")
    assert failure == Failure(
        "provider_missing",
        "execution provider nonesuch: the package onnxruntime_nonesuch cannot be used: "
        "No module named 'onnxruntime_nonesuch'",
        "install onnxruntime-nonesuch for this interpreter, or correct runtime.provider",
    )


def test_a_session_that_cannot_be_created(selu: Path) -> None:
    """The runtime's refusal comes in its own words, in one line, with the model's path."""
    failure = refused(selu, options={"soc_model": "0"})
    assert failure.reason == "session_failed"
    assert failure.detail.startswith(f"{selu}: ")
    assert "Failed to finalize QNN graph" in failure.detail


def test_a_truncated_model(selu: Path) -> None:
    """A file cut in transfer is refused before the runtime sees it."""
    selu.write_bytes(selu.read_bytes()[:1000])
    assert refused(selu).reason == "model_invalid"


def test_a_renamed_model_is_said_to_be_a_copy(tmp_path: Path) -> None:
    """Where nodes had to be named, the facts say so; the file's own hash stays."""
    facts = opened(models.external(tmp_path))
    assert facts.notes == ("nodes were named in a copy in memory",)
    assert [p.name for p in facts.placement] == ["MatMul_0"]


def test_a_failed_request_leaves_the_probe_usable(selu: Path, tmp_path: Path) -> None:
    """A probe that could not open a model answers the next request; audit and replays then give raw times."""
    handle = ProbeHandle()
    try:
        with pytest.raises(Exception, match=r"gone\.onnx: No such file"):
            handle.request(wire.Open(spec(tmp_path / "gone.onnx"), 1), TIMEOUT)
        handle.request(wire.Open(spec(selu), 1), TIMEOUT)
        profile = handle.request(wire.Audit(2, 30.0), TIMEOUT)
        replays = handle.request(wire.Replay(6, 2, 30.0), TIMEOUT)
    finally:
        handle.close()
    assert profile.partial is None
    assert len(profile.runs) == 2
    assert {span.processor for span in profile.runs[0]} == {"accelerator", "cpu"}
    assert (len(replays.seconds), len(replays.warmups), len(replays.drawn)) == (6, 2, 6)
    assert all(0 < seconds < TIMEOUT for seconds in replays.seconds)
    assert set(replays.drawn) == {0, 1, 2, 3}


def test_replays_end_when_their_budget_is_spent(selu: Path) -> None:
    """Beyond the warm-ups two inferences are always timed, and none is begun after the budget."""
    handle = ProbeHandle()
    try:
        handle.request(wire.Open(spec(selu), 1), TIMEOUT)
        replays = handle.request(wire.Replay(1000, 1, 0.0), TIMEOUT)
    finally:
        handle.close()
    assert (len(replays.seconds), len(replays.warmups)) == (2, 1)


def test_a_priority_on_the_accelerator_goes_through(selu: Path) -> None:
    """The provider takes ``qnn_context_priority`` as it is: it is no option that is ignored, and the session runs."""
    facts = opened(selu, options={"soc_model": "60", "qnn_context_priority": "low"})
    assert facts.runtime.options["qnn_context_priority"] == "low"
    assert facts.runtime.target == "simulator"
    assert facts.faults == ()
