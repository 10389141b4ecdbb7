"""How the QNN execution provider's log is read; the lines are as onnxruntime-qnn 2.7.0 wrote them."""

from __future__ import annotations

import pytest

from monitor.probe.provider import LogLine, LogReading, find
from monitor.records import Fault, Rejection, RejectionKind

PLACE = "qnn_ep.cc:551 void onnxruntime::LogNodeSupport(...)"


def verbose(message: str) -> LogLine:
    """A line of the verbose log."""
    return LogLine(0, PLACE, message)


def error(message: str) -> LogLine:
    """A line of the error log."""
    return LogLine(3, "qnn_ep.cc:1135 GetCapabilityImpl", message)


def read(*lines: LogLine) -> LogReading:
    """What the module makes of the lines that it wants."""
    qnn = find("qnn")
    return qnn.read_log(line for line in lines if qnn.wants(line))


def refused(op_type: str, name: str, reason: str) -> LogLine:
    """The provider's report on one node."""
    return verbose(
        f"Validation FAILED for 1 nodes in OrtNodeUnit ({op_type}) :\n"
        f"\tOperator type: {op_type} Node name: {name} Node index: 0\n\tREASON : {reason}\n"
    )


def test_a_refused_node_is_told_once_with_the_first_reason() -> None:
    """The provider validates in two passes; what the second says in general terms does not replace the reason."""
    reading = read(
        refused("Selu", "selu", "Selu: failed to create ELU node."),
        refused("Conv", "conv1", "Cannot get shape"),
        refused("Selu", "selu", "Unit was refused."),
    )
    assert reading.rejections == (
        Rejection("selu", "Selu", "Selu: failed to create ELU node.", "backend"),
        Rejection("conv1", "Conv", "Cannot get shape", "dynamic_shape"),
    )


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("Cannot get shape", "dynamic_shape"),
        ("Qnn doesn't support dynamic repeats input", "not_constant"),
        ("QNN CumSum needs axis as a param, hence input[1] must be a constant.", "not_constant"),
        ("Operators of type `Det` are not supported by QNN EP.Det node `det` will not be assigned", "op_missing"),
        ("Einsum unsupported equation: abcd,abce->acde", "attribute"),
        ("QNN Mod Op only support fmod == 0 for now.", "attribute"),
        ("QNN Conv only supports 3D(rank 5), 2D (rank 4) or 1D (rank 3) inputs.", "rank"),
        ("Unsupported Input datatype", "dtype"),
        ("Failed to add node.", "backend"),
        ("QNN EP is configured to not take Q nodes that consume a graph input.", "by_design"),
        ("the moon is full", "unsupported"),
    ],
)
def test_kinds_of_refusal(reason: str, kind: RejectionKind) -> None:
    """What the provider said on the simulator, or has in its sources, is understood; anything else is left as it is."""
    (rejection,) = read(refused("Any", "n", reason)).rejections
    assert (rejection.reason, rejection.kind) == (reason, kind)


def test_every_node_of_a_refused_unit_is_told() -> None:
    """A quantized unit is refused as a whole: each of its nodes has the reason, unnamed ones too."""
    reading = read(
        verbose(
            "Validation FAILED for 3 nodes in OrtNodeUnit (Conv) :\n"
            "\tOperator type: DequantizeLinear Node name: dq Node index: 4\n"
            "\tOperator type: Conv Node name: conv 1/x Node index: 5\n"
            "\tOperator type: QuantizeLinear Node name:  Node index: 6\n"
            "\tREASON : qnn_op Conv2d:\n  rank 5 is not supported\n"
        )
    )
    assert [(r.node, r.op_type) for r in reading.rejections] == [
        ("dq", "DequantizeLinear"),
        ("conv 1/x", "Conv"),
        ("", "QuantizeLinear"),
    ]
    assert {r.reason for r in reading.rejections} == {"qnn_op Conv2d: rank 5 is not supported"}


def test_a_refusal_without_a_reason() -> None:
    """What gives no reason is said to give none."""
    (rejection,) = read(verbose("Validation FAILED:\n\tOperator type: Foo Node name: f Node index: 1\n")).rejections
    assert rejection.reason == "no reason given"


def test_the_backends_version() -> None:
    """The SDK's version stands in the log of a backend that was loaded, and nowhere otherwise."""
    assert read(verbose("Backend build version: v2.51.0.260929181845")).backend_version == "v2.51.0.260929181845"
    assert read(verbose("LoadBackend succeed.")).backend_version is None


@pytest.mark.parametrize(
    ("said", "mend"),
    [
        (
            "Failed to create device. Error: QNN_DEVICE_ERROR_INVALID_CONFIG: Invalid config values",
            "check soc_model and htp_arch against this board's SoC",
        ),
        (
            "Unable to load backend, error:  /x/libQnnHtp.so: cannot open shared object file",
            "correct options.backend_path; the package ships the library",
        ),
        ("Could not find device with ID = 7", "correct or remove options.device_id"),
        (
            "Failed to initialize backend. Error: QNN_BACKEND_ERROR_CANNOT_INITIALIZE",
            "check /dev/fastrpc-cdsp and /dev/dma_heap/* (present, permitted), FastRPC's libcdsprpc.so, and "
            "ADSP_LIBRARY_PATH",
        ),
        (
            "Failed to load skel, error: 4000",
            "put the skel library that matches this SDK on ADSP_LIBRARY_PATH",
        ),
        ("something nobody has seen", "check the accelerator's device nodes, firmware and ADSP_LIBRARY_PATH"),
    ],
)
def test_an_accelerator_that_does_not_come_up_is_one_fault_with_its_mend(said: str, mend: str) -> None:
    """The provider's line is the fault; the runtime's repetition of it is left out."""
    reading = read(
        error(f"QNN SetupBackend failed {said}"),
        error(
            "OrtEp::GetCapability() for QNNExecutionProvider failed with error: [ONNXRuntimeError] : 11 : EP_FAIL : "
            f"QNN SetupBackend failed {said}"
        ),
    )
    assert reading.faults == (
        Fault("accelerator_unavailable", " ".join(f"QNN SetupBackend failed {said}".split()), mend),
    )


def test_a_context_of_another_sdk() -> None:
    """An error about a context binary is a mismatch, and says to recompile."""
    (fault,) = read(error("Failed to create context from binary. Error code: 5000")).faults
    assert fault.kind == "context_mismatch"
    assert fault.mend == "recompile the context with the SDK and for the SoC of this board"


def test_an_options_value_that_is_ignored() -> None:
    """A value that the provider only warns about is a fault; its other warnings are not."""
    reading = read(
        LogLine(2, "qnn_execution_provider.cc:198 ParseHtpPerformanceMode", "Htp performance mode not valid."),
        LogLine(2, "session_state.cc:1618", "Some nodes were not assigned to the preferred execution providers"),
    )
    message = "an option's value is ignored: Htp performance mode not valid."
    assert reading.faults == (Fault("option_ignored", message, "correct the value"),)


def test_an_unknown_error_is_passed_on() -> None:
    """What the module cannot read is still told, once, as something else, and classified as nothing."""
    line = error("A message that\nno release has written yet")
    assert read(line, line).faults == (Fault("other", "A message that no release has written yet"),)


def test_verbose_chatter_is_left_out() -> None:
    """Of the thousands of lines that a session's creation logs only those that matter are kept."""
    assert read(
        verbose("CreateContext succeed."), LogLine(1, "graph.cc", "GraphTransformer modified: 0")
    ) == LogReading((), (), None)
