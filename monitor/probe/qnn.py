"""All that npumon knows of Qualcomm's QNN execution provider in particular, and the only module that does.

Log formats and facts were measured with onnxruntime-qnn 2.7.0 (QNN SDK 2.51); DESIGN, section 2, lists them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import onnxruntime as ort

from monitor.probe.provider import ERROR, Context, LogLine, LogReading, Provider, one_line
from monitor.records import Fault, Rejection, RejectionKind, Target

# LogNodeSupport writes, for each refused node (unit):
#   Validation FAILED for 1 nodes in OrtNodeUnit (Conv) :
#   \tOperator type: Conv Node name: conv1 Node index: 0
#   \tREASON : Cannot get shape
_REFUSED = "Validation FAILED"
_NODE = re.compile(r"Operator type: (?P<op_type>.*?) Node name: (?P<name>.*?) Node index: \d+")
_REASON = re.compile(r"REASON : (?P<reason>.*)", re.DOTALL)
_BUILD = re.compile(r"Backend build version: (?P<version>\S+)")

_DYNAMIC = re.compile(r"Cannot get shape|[Dd]ynamic shape")

# What SetupBackend and its callers say when the accelerator does not come up, and what mends it.
_UNAVAILABLE: tuple[tuple[str, str], ...] = (
    ("INVALID_CONFIG", "check soc_model and htp_arch against this board's SoC"),
    ("Unable to load backend", "correct options.backend_path; the package ships the library"),
    ("Could not find device with ID", "correct or remove options.device_id"),
    ("CANNOT_INITIALIZE", "check /dev/fastrpc-cdsp and /dev/dma_heap/* (present, permitted) and ADSP_LIBRARY_PATH"),
    ("skel", "put the skel library that matches this SDK on ADSP_LIBRARY_PATH"),
    ("", "check the accelerator's device nodes, firmware and ADSP_LIBRARY_PATH"),
)
_CONTEXT = re.compile(r"context binary|CONTEXT_ERROR|Failed to create context|context.*version", re.IGNORECASE)


class Qnn(Provider):
    """The QNN execution provider on its HTP backend: the Hexagon NPU, or its simulator in the x86-64 package."""

    def options(self, configured: Mapping[str, str]) -> dict[str, str]:
        """The configured options; the package's own HTP library where neither backend option is given."""
        if "backend_path" in configured or "backend_type" in configured:
            return dict(configured)
        return {"backend_path": str(self.module.get_qnn_htp_path()), **configured}

    def target(self, devices: list[Any]) -> Target:
        """``hexagon`` only where the runtime lists an NPU device; the x86-64 package lists the CPU."""
        npu = any(device.device.type == ort.OrtHardwareDeviceType.NPU for device in devices)
        return "hexagon" if npu else "simulator"

    def wants(self, line: LogLine) -> bool:
        """Errors, refused nodes and the SDK's version."""
        return line.severity >= ERROR or _REFUSED in line.message or "Backend build version" in line.message

    def context_faults(self, contexts: Iterable[Context], configured: Mapping[str, str]) -> list[Fault]:
        """Contexts made by another SDK version, or for another SoC, than those of this session.

        The maker's version is the node's ``ep_sdk_version``, this package's its ``qnn_version``; the SoC stands in the
        metadata ``ep_compatibility_info`` (``v2:6:2.51.0:5.51.0:0:60:0:0``: SDK third, SoC model sixth, measured).
        """
        installed = str(getattr(getattr(self.module, "build_and_package_info", None), "qnn_version", ""))
        faults = []
        for context in contexts:
            made = context.attributes.get("ep_sdk_version", "").removeprefix("v")
            if made and installed and made.split(".")[:2] != installed.split(".")[:2]:
                faults.append(
                    Fault(
                        "context_foreign",
                        f"the context {context.node} was made by SDK {made}, this runtime has {installed}",
                        f"recompile the context with SDK {installed}, or pin the package that has SDK {made}",
                    )
                )
            info = context.metadata.get(f"ep_compatibility_info.{self.ep_name}", "").split(":")
            soc, wanted = info[5] if len(info) > 5 else "", configured.get("soc_model", "")
            if soc not in ("", "0") and wanted not in ("", "0", soc):
                faults.append(
                    Fault(
                        "context_foreign",
                        f"the context {context.node} was made for soc_model {soc}, this session has {wanted}",
                        f"recompile the context for soc_model {wanted}, or deploy the one made for this SoC",
                    )
                )
        return list(dict.fromkeys(faults))

    def read_log(self, lines: Iterable[LogLine]) -> LogReading:
        """Each refused node once (the provider validates in two passes), faults classified, the SDK's version."""
        rejections: dict[tuple[str, str], Rejection] = {}
        faults: dict[str, Fault] = {}
        version: str | None = None
        for line in lines:
            if build := _BUILD.search(line.message):
                version = build["version"]
            elif _REFUSED in line.message:
                for rejection in _refused(line.message):
                    # the second pass often only repeats a refusal in general terms: the first reason stands
                    rejections.setdefault((rejection.node, rejection.op_type), rejection)
            elif fault := _fault(line.message):
                faults.setdefault(fault.message, fault)
        return LogReading(tuple(rejections.values()), tuple(faults.values()), version)


def _refused(message: str) -> list[Rejection]:
    reason = _REASON.search(message)
    text = one_line(reason["reason"]) if reason else "no reason given"
    kind: RejectionKind = "dynamic_shape" if _DYNAMIC.search(text) else "unsupported"
    return [Rejection(node["name"].strip(), node["op_type"], text, kind) for node in _NODE.finditer(message)]


def _fault(message: str) -> Fault | None:
    text = one_line(message)
    if "GetCapability() for" in text and "SetupBackend failed" in text:
        return None  # the runtime repeats what the provider's own line already said
    if "SetupBackend failed" in text:
        mend = next(mend for words, mend in _UNAVAILABLE if words in text)
        return Fault("accelerator_unavailable", text, mend)
    if _CONTEXT.search(text):
        return Fault("context_mismatch", text, "recompile the context with the SDK and for the SoC of this board")
    return Fault("other", text)
