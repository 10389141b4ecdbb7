"""What the service may not read: the usual mistake of a deployment, since it runs as a user of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from monitor.probe import demo_model
from tests import models
from tests.compiling import compiled
from tests.e2e.running import running, write_config
from tests.faults.faulty import watched

ALLOW = "let the service's user read it"
BESIDE = "deploy it beside the model"
# CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, by PR_CAPBSET_DROP: root then may read what its permissions let it.
UNPRIVILEGED = """
import ctypes, os, sys
for capability in (1, 2):
    assert ctypes.CDLL(None).prctl(24, capability, 0, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""


class Case(NamedTuple):
    """What may not be read, below the folder of its model, and what must be said of it; {} is that folder."""

    shut: str
    detail: str
    mend: str
    cause: str | None = None


CASES = {
    "file": Case("m.onnx", "{}/m.onnx: Permission denied", ALLOW),
    "folder": Case("", "{}/m.onnx: Permission denied", ALLOW),
    "weights": Case(
        "weights.bin", "{}/weights.bin: the model's external data cannot be read: Permission denied", BESIDE
    ),
    "context": Case(
        "source_60_ORT_DISABLE_ALL_qnn.bin",
        "{}/source_60_ORT_DISABLE_ALL_qnn.bin: the context's binary cannot be read: Permission denied",
        BESIDE,
        "context_mismatch",
    ),
}


def deployed(name: str, folder: Path) -> Path:
    """A model of this kind in the folder, which anybody may read."""
    folder.mkdir()
    if name == "weights":
        return models.external(folder)
    path = models.saved(demo_model.build(), folder, "source.onnx")
    return compiled(path, embed=False) if name == "context" else path


def test_what_may_not_be_read_is_told_and_checked_once_it_may(tmp_path: Path) -> None:
    """A model, its folder, its weights, its context's binary: the file is named, and once it is mended, all is well."""
    settings = {}
    for name, case in CASES.items():
        path = deployed(name, tmp_path / name)
        settings[name] = watched(path.rename(path.with_name("m.onnx")))
        (tmp_path / name / case.shut).chmod(0)
    config = write_config(tmp_path, settings, "1s")
    within = (sys.executable, "-c", UNPRIVILEGED) if os.geteuid() == 0 else ()
    with running("run", "-c", config, within=within) as daemon:
        for name, case in CASES.items():
            failed = daemon.wait("check_failed", name)
            expected = {"reason": "model_missing", "detail": case.detail.format(tmp_path / name), "mend": case.mend}
            assert failed["error"] == expected | ({"cause": case.cause} if case.cause else {})
            (tmp_path / name / case.shut).chmod(0o755)
            assert daemon.wait("check_recovered", name)["id"] == failed["id"]


def test_a_sample_that_may_not_be_read_is_rejected(tmp_path: Path) -> None:
    """It is told by its name; the others are replayed."""
    samples = tmp_path / "samples"
    samples.mkdir()
    for name in ("open.npz", "shut.npz"):
        np.savez(samples / name, image=np.zeros((1, 3, 32, 32), np.float32))
    (samples / "shut.npz").chmod(0)
    path = models.saved(demo_model.build(), tmp_path, "m.onnx")
    config = write_config(tmp_path, {"m": watched(path, samples=samples)}, "1s")
    within = (sys.executable, "-c", UNPRIVILEGED) if os.geteuid() == 0 else ()
    with running("run", "-c", config, within=within) as daemon:
        rejected = daemon.wait("sample_rejected", "m")
        assert (rejected["file"], rejected["reason"]) == ("shut.npz", "unreadable")
        assert rejected["detail"] == "Permission denied"
        assert daemon.metric("samples", model="m") == 1
        assert not daemon.told("check_failed")
