"""``npumon demo``: the daemon on the simulator with a model that falls back and one that does not.

swift-f0 is a published pitch detector that falls back silently: its session lists the accelerator, its FLOPs run on the
CPU. The other is a small quantized network made here, which stays on the accelerator.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Final

from monitor.config import Config, load
from monitor.errors import UsageError

_CONFIG: Final = """\
# Made by `npumon demo`: two models on the simulator. Its timings mean nothing, so they are not gated.

[monitor]
listen = "{listen}"
state = "state"
interval = "{interval}"

[runtime]
provider = "qnn"

[runtime.options]
soc_model = "60"

[[models]]
name = "swift_f0"
path = "{swift_f0}"
timeout = "60s"

[models.gate]
cv = 10.0

[[models]]
name = "qdq_cnn"
path = "qdq_cnn.onnx"
timeout = "60s"

[models.gate]
cv = 10.0
"""


def prepare(folder: Path, listen: str, interval: str) -> Config:
    """Write the demo's configuration and its own model into ``folder``, and load it.

    Raises :class:`UsageError` if swift-f0's package is not installed or an argument cannot be used.
    """
    package = importlib.util.find_spec("swift_f0")
    if package is None or package.origin is None:
        raise UsageError('npumon demo: the package swift-f0 is not installed; run `pip install "npumon[demo]"`')
    swift_f0 = Path(package.origin).parent / "model.onnx"
    # made by a process of its own: the daemon never imports onnx
    subprocess.run([sys.executable, "-m", "monitor.probe.demo_model", str(folder / "qdq_cnn.onnx")], check=True)
    file = folder / "npumon.toml"
    file.write_text(_CONFIG.format(listen=listen, interval=interval, swift_f0=swift_f0))
    return load(file)
