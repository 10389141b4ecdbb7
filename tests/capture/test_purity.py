"""Capture goes into any application: nothing but numpy and the standard library comes along with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np

import monitor

PROGRAM = """
import json, sys
sys.path[:0] = sys.argv[1:2]
before = set(sys.modules)
from monitor.capture import InputTap, TappedSession
import numpy
tap = InputTap(sys.argv[2], rate=1.0)
tap.offer({"x": numpy.zeros(3)}, 0.001)
tap.close()
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""


def test_nothing_but_numpy_is_needed(tmp_path: Path) -> None:
    """An interpreter that has numpy and the package and no other distribution imports it, and keeps a sample."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "monitor").symlink_to(Path(monitor.__file__).parent)
    installed = Path(np.__file__).parents[1]
    for name in ("numpy", "numpy.libs"):
        (site / name).symlink_to(installed / name)
    command = [sys.executable, "-I", "-S", "-W", "error", "-c", PROGRAM, str(site), str(tmp_path / "samples")]
    environment = {"PATH": os.defpath, "LD_LIBRARY_PATH": sysconfig.get_config_var("LIBDIR") or ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "samples").glob("*.npz"))) == 1
    loaded = set(json.loads(done.stdout))
    assert loaded - set(sys.stdlib_module_names) == {"monitor", "numpy"}


def test_nothing_else_of_npumon_comes_along() -> None:
    """Of the package an application loads the capture and the bins: no configuration, no records, no daemon."""
    program = "import sys, monitor.capture; print(*(name for name in sys.modules if name.startswith('monitor')))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.split())
    assert loaded == {"monitor", "monitor.bins", "monitor.capture"} | {
        f"monitor.capture.{name}" for name in ("arrays", "files", "ledger", "reservoir", "session", "tap", "writer")
    }
