"""Precompiled models for the tests, made by the runtime's own compiler on the simulator.

The compiler runs in a process of its own, like every session of an execution provider in the tests: its options leak.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx

_COMPILE = """
import sys
import onnxruntime as ort, onnxruntime_qnn as qnn

source, target, soc, level, embed = sys.argv[1:]
ort.register_execution_provider_library("QNNExecutionProvider", qnn.get_library_path())
devices = [device for device in ort.get_ep_devices() if device.ep_name == "QNNExecutionProvider"]
options = ort.SessionOptions()
options.add_provider_for_devices(devices[:1], {"backend_path": qnn.get_qnn_htp_path(), "soc_model": soc})
chosen = getattr(ort.GraphOptimizationLevel, level)
inside = embed == "True"
compiler = ort.ModelCompiler(options, source, embed_compiled_data_into_model=inside, graph_optimization_level=chosen)
compiler.compile_to_file(target)
"""


def compiled(source: Path, soc: str = "60", level: str = "ORT_DISABLE_ALL", embed: bool = True) -> Path:
    """``source`` as an EPContext model beside it; the level is the compiler's own default.

    Without ``embed`` the binary lies beside the model in a file of its own.
    """
    target = source.with_name(f"{source.stem}_{soc}_{level}.onnx")
    command = [sys.executable, "-c", _COMPILE, str(source), str(target), soc, level, str(embed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return target


def made_by(context: Path, sdk: str) -> Path:
    """A copy of ``context`` that says that another SDK made it; its binary stays."""
    proto = onnx.load(str(context))
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.name == "ep_sdk_version":
                attribute.s = sdk.encode()
    path = context.with_name("foreign.onnx")
    onnx.save(proto, str(path))
    return path
