"""All that npumon knows of Qualcomm's QNN execution provider in particular, and the only module that does.

Log formats and facts were measured with onnxruntime-qnn 2.7.0 (QNN SDK 2.51); DESIGN, section 2, lists them.
"""

from __future__ import annotations

import os
import platform
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import onnxruntime as ort

from monitor.probe.provider import ERROR, WARNING, Context, DeepCounts, LogLine, LogReading, Provider, one_line
from monitor.records import DeepRow, Fault, Rejection, RejectionKind, Target

# LogNodeSupport writes, for each refused node (unit):
#   Validation FAILED for 1 nodes in OrtNodeUnit (Conv) :
#   \tOperator type: Conv Node name: conv1 Node index: 0
#   \tREASON : Cannot get shape
_REFUSED = "Validation FAILED"
_NODE = re.compile(r"Operator type: (?P<op_type>.*?) Node name: (?P<name>.*?) Node index: \d+")
_REASON = re.compile(r"REASON : (?P<reason>.*)", re.DOTALL)
_BUILD = re.compile(r"Backend build version: (?P<version>\S+)")

# Warnings about an option's value, which the provider then replaces by its default
_BAD_VALUE = re.compile(
    r"(?:mode|level) not valid|not valid, set to undefined|[Ii]nvalid value |Unrecognized soc_model"
)
# Kinds of refusal by the provider's words, first hit wins; from its op builders' sources and seen on the simulator.
_KINDS: tuple[tuple[RejectionKind, str], ...] = (
    ("dynamic_shape", r"cannot get shape|dynamic shape|failed to get \w+ shape"),
    ("by_design", r"configured to not take"),
    ("op_missing", r"operators of type .* are not supported|missing opbuilder"),
    (
        "not_constant",
        r"must be (a constant|(an? )?initializer|constant)|dynamic \w+ input|needs \w+ as a param"
        r"|produced outside the .* partition",
    ),
    ("dtype", r"data ?type|type not supported|unsupported type"),
    ("rank", r"\brank\b|only supports? \dD|must have shape"),
    ("attribute", r"only supports?|unsupported equation|not supported yet|doesn't support|does not support"),
    ("backend", r"failed to (add|create) .*node|backend.*validat|\b3110\b"),
)

# What SetupBackend and its callers say when the accelerator does not come up, and what mends it.
_UNAVAILABLE: tuple[tuple[str, str], ...] = (
    ("INVALID_CONFIG", "check soc_model and htp_arch against this board's SoC"),
    ("Unable to load backend", "correct options.backend_path; the package ships the library"),
    ("Could not find device with ID", "correct or remove options.device_id"),
    (
        "CANNOT_INITIALIZE",  # also where the backend finds no libcdsprpc.so (seen under emulation)
        "check /dev/fastrpc-cdsp and /dev/dma_heap/* (present, permitted), FastRPC's libcdsprpc.so, "
        "and ADSP_LIBRARY_PATH",
    ),
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

    def for_soc(self, soc: str) -> dict[str, str]:
        """The SoC's number, as in ``soc_model``."""
        return {"soc_model": soc}

    def target(self, devices: list[Any]) -> Target:
        """``hexagon`` only where the runtime lists an NPU device; the x86-64 package simulates one on the CPU."""
        if _is_npu(devices[0]):
            return "hexagon"
        return "simulator" if platform.machine() == "x86_64" else "cpu"

    def devices(self) -> list[Any]:
        """The NPU first, wherever the runtime lists it."""
        return sorted(super().devices(), key=_is_npu, reverse=True)

    def wants(self, line: LogLine) -> bool:
        """Errors, refused nodes, refused option values and the SDK's version."""
        if line.severity < WARNING:
            return _REFUSED in line.message or "Backend build version" in line.message
        return line.severity >= ERROR or bool(_BAD_VALUE.search(line.message))

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
                        f"the context was made by SDK {made}, this runtime has {installed}",
                        f"recompile the context with SDK {installed}, or pin the package that has SDK {made}",
                    )
                )
            info = context.metadata.get(f"ep_compatibility_info.{self.ep_name}", "").split(":")
            soc, wanted = info[5] if len(info) > 5 else "", configured.get("soc_model", "")
            if soc not in ("", "0") and wanted not in ("", "0", soc):
                faults.append(
                    Fault(
                        "context_foreign",
                        f"the context was made for soc_model {soc}, this session has {wanted}",
                        f"recompile the context for soc_model {wanted}, or deploy the one made for this SoC",
                    )
                )
        return list(dict.fromkeys(faults))

    def deep(self, folder: Path) -> _Profile:
        """QNN's detailed profile, with the ONNX source of each op."""
        return _Profile(folder)

    def context_mend(self, error: str) -> str:
        """Loading at a higher level than compiling can fold an input of the context away."""
        if "count of graph inputs" in error:
            folded = (
                'loading folds an input of the context away: set session graph_optimization_level = "ORT_DISABLE_ALL"'
            )
            return f"{folded}, or compile at ORT_ENABLE_BASIC"
        return super().context_mend(error)

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


def _is_npu(device: Any) -> bool:
    return bool(device.device.type == ort.OrtHardwareDeviceType.NPU)


def _refused(message: str) -> list[Rejection]:
    reason = _REASON.search(message)
    text = one_line(reason["reason"]) if reason else "no reason given"
    known = (kind for kind, words in _KINDS if re.search(words, text, re.IGNORECASE))
    kind: RejectionKind = next(known, "unsupported")
    return [Rejection(node["name"].strip(), node["op_type"], text, kind) for node in _NODE.finditer(message)]


def _fault(message: str) -> Fault | None:
    text = one_line(message)
    if "GetCapability() for" in text and "SetupBackend failed" in text:
        return None  # the runtime repeats what the provider's own line already said
    if "SetupBackend failed" in text:
        mend = next(mend for words, mend in _UNAVAILABLE if words in text)
        return Fault("accelerator_unavailable", text, mend)
    if _BAD_VALUE.search(text):
        return Fault("option_ignored", f"an option's value is ignored: {text}", "correct the value")
    if _CONTEXT.search(text):
        return Fault("context_mismatch", text, "recompile the context with the SDK and for the SoC of this board")
    return Fault("other", text)


# ------------------------------------------------------------------------------------------- QNN's own profile
#
# The CSV's columns: Msg Timestamp, Message, Time, Unit of Measurement, Timing Source, Event Level, Event Identifier,
# ONNX Source Ops. Nothing is quoted, so that a node's name may bring commas, semicolons and line breaks of its own:
#   0,NODE,66107,CYCLES,BACKEND,SUB-EVENT,Transpose_token_22:OpId_17 (cycles),DequantizeLinear;Transpose_token_22
#   0,NODE,3467,CYCLES,BACKEND,SUB-EVENT,Input OpId_2 (cycles),
#   0,BACKEND,90369,US,BACKEND,ROOT,Accelerator (execute) time,
_ROW = re.compile(rb"\d+,[A-Z_ -]*,\d{1,18},[A-Z_]*,[A-Z_]*,[A-Z_-]*,")  # a reading is of 64 bits
_OP = re.compile(r"(?:(?P<name>.*):|(?P<edge>Input|Output) )OpId_\d+ \(cycles\),(?P<sources>.*)", re.DOTALL)
_CYCLES = "Accelerator (execute) time (cycles)"
_EXECUTE = "QNN (execute) time"
# QnnHtpProfile.h, 3001, 3004, 3012: the remote call; the graph there with, and without, waiting for its resources
_CALL, _ACCELERATOR, _BUSY = (
    "RPC (execute) time",
    "Accelerator (execute) time",
    "Accelerator (execute excluding wait) time",
)
_LONGEST_ROW = 64 * 1024
_LARGEST_GRAPH = 64 * 2**20


class _GraphNode(msgspec.Struct):
    input_names: list[str] = []
    output_names: list[str] = []


class _Graph(msgspec.Struct):
    nodes: dict[str, _GraphNode] = {}


class _Dump(msgspec.Struct):
    graph: _Graph


class _Profile:
    """The detailed profile: a CSV that each inference appends to, without bound; and the dumped graphs' edges."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._csv = folder / "deep.csv"
        self._marks: list[int] = []
        self.options = {
            "profiling_level": "detailed",
            "profiling_file_path": str(self._csv),
            "enable_framework_op_trace": "1",
            "framework_op_trace_dir": str(folder),  # without it, the trace lands in the working directory
            "dump_json_qnn_graph": "1",
            "json_qnn_graph_dir": str(folder),
        }

    def mark(self) -> None:
        """The next inference begins at the end of the file."""
        self._marks.append(self._csv.stat().st_size if self._csv.exists() else 0)

    def size(self) -> int:
        """Bytes of the longest file."""
        return max((file.stat().st_size for file in self._folder.iterdir() if file.is_file()), default=0)

    def read(self, limit: int) -> list[DeepCounts]:
        """One for each mark. Partial where the file is missing, cut, damaged, or at its limit."""
        producers = self._producers()
        counts = []
        try:
            with self._csv.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                if size >= limit:
                    return [DeepCounts(partial=f"the profile reached its limit of {limit:,} bytes and is cut")]
                for start, end in pairwise([*self._marks, size]):
                    file.seek(start)
                    tally = _Tally()
                    for row in _rows(file, end):
                        tally.add(row)
                    counts.append(tally.counts(producers))
        except OSError as error:
            return [DeepCounts(partial=f"the execution provider wrote no profile: {error.strerror}")]
        return counts

    def _producers(self) -> dict[str, tuple[str, ...]]:
        """For each op the ops whose outputs it reads; what was not dumped, as for a precompiled model, is absent."""
        nodes: dict[str, _GraphNode] = {}
        decoder = msgspec.json.Decoder(_Dump)
        for file in self._folder.glob("*.json"):
            if file.stat().st_size > _LARGEST_GRAPH:
                continue
            try:
                nodes |= decoder.decode(file.read_bytes()).graph.nodes
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                continue  # the trace and the tensors' log lie in the same folder
        makers = {tensor: name for name, node in nodes.items() for tensor in node.output_names}
        return {
            name: tuple(dict.fromkeys(makers[tensor] for tensor in node.input_names if tensor in makers))
            for name, node in nodes.items()
        }


def _rows(file: BinaryIO, end: int) -> Iterator[bytes]:
    """Rows of the CSV up to ``end``; a line that does not begin one belongs to the name in the row before it."""
    pending = b""
    while file.tell() < end and (line := file.readline(_LONGEST_ROW)):
        if not pending or _ROW.match(line):
            if pending:
                yield pending
            pending = line
        elif len(pending) < _LONGEST_ROW:
            pending += line
    if pending:
        yield pending


class _Tally:
    """Sums over the rows."""

    def __init__(self) -> None:
        self.cycles: Counter[tuple[str, str, bool]] = Counter()
        self.sums: Counter[str] = Counter()
        self.counts_of: Counter[str] = Counter()
        self.damaged = 0
        self.cut = False

    def add(self, row: bytes) -> None:
        self.cut = not row.endswith(b"\n")
        text = row.decode("utf-8", "replace").rstrip("\r\n")
        if text.startswith("Msg Timestamp,"):
            return
        if not _ROW.match(row):
            self.damaged += 1
            return
        _, message, time, unit, _, level, rest = text.split(",", 6)
        if level == "ROOT":
            identifier = rest.rstrip(",")
            self.sums[identifier] += int(time)
            self.counts_of[identifier] += 1
        elif message == "NODE" and unit == "CYCLES":
            if found := _OP.fullmatch(rest):
                key = (found["name"] or found["edge"], found["sources"], found["edge"] is not None)
                self.cycles[key] += int(time)
            else:
                self.damaged += 1

    def counts(self, producers: Mapping[str, tuple[str, ...]]) -> DeepCounts:
        """The sums, or why there are none."""
        executions = self.counts_of[_EXECUTE]
        if self.cut or (self.cycles and not executions) or self.counts_of[_CYCLES] not in (0, executions):
            return DeepCounts(partial="the profile is cut")
        if self.damaged:
            return DeepCounts(partial=f"the profile is damaged: {self.damaged} of its rows cannot be read")
        if not executions:
            return DeepCounts(partial="the execution provider's profile holds no inference")
        rows = tuple(
            DeepRow(name, tuple(sources.split(";")) if sources else (), cycles, producers.get(name, ()), edge)
            for (name, sources, edge), cycles in self.cycles.items()
        )
        cycles = self.sums[_CYCLES] if self.counts_of[_CYCLES] else None
        return DeepCounts(rows, cycles, self._seconds(_CALL), self._seconds(_ACCELERATOR), self._seconds(_BUSY))

    def _seconds(self, reading: str) -> float | None:
        """The sum of a reading that every execution gave; the provider writes microseconds."""
        given = self.counts_of[reading]
        return self.sums[reading] / 1e6 if given and given == self.counts_of[_EXECUTE] else None
