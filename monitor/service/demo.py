"""``npumon demo``: the daemon on the simulator with a model that falls back and one that does not.

swift-f0 is a published pitch detector that falls back silently: its session lists the accelerator, its FLOPs run on the
CPU. The other is a small quantized network made here, which stays on the accelerator.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from monitor.config import Config, load
from monitor.errors import UsageError

_CONFIG: Final = """\
# Made by `npumon demo`: two models on the simulator. Its timings mean nothing, so they are not gated.

[monitor]
listen = {listen}
state = "state"
interval = {interval}
max_duty = 1.0

[runtime]
provider = "qnn"

[runtime.options]
soc_model = "60"

[[models]]
name = "swift_f0"
path = {swift_f0}
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

    Raises :class:`UsageError` if swift-f0's package is not installed or an argument cannot be used. Nobody but the demo
    sees the file, so errors name ``npumon demo`` instead.
    """
    package = importlib.util.find_spec("swift_f0")
    if package is None or package.origin is None:
        raise UsageError('npumon demo: the package swift-f0 is not installed; run `pip install "npumon[demo]"`')
    swift_f0 = Path(package.origin).parent / "model.onnx"
    # made by a process of its own: the daemon never imports onnx
    command = [sys.executable, "-m", "monitor.probe.demo_model", str(folder / "qdq_cnn.onnx")]
    made = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if made.returncode:
        said = (made.stderr.strip().splitlines() or [f"exit code {made.returncode}"])[-1]
        raise UsageError(f"npumon demo: its model cannot be made: {said}; reinstall npumon's packages")
    file = folder / "npumon.toml"
    values = {"listen": listen, "interval": interval, "swift_f0": str(swift_f0)}
    file.write_text(_CONFIG.format(**{key: json.dumps(text, ensure_ascii=False) for key, text in values.items()}))
    try:
        config = load(file)
    except UsageError as error:
        raise UsageError(f"npumon demo: {str(error).partition(': ')[2]}") from error
    return replace(config, file=Path("npumon demo"), digest=None)
