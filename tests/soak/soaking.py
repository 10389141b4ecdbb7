"""A soak of three small models on the simulator, in which what changes over hours is planted within seconds."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from onnx import ModelProto

from tests import models
from tests.e2e.running import INSIDE_PROBES, Done, npumon, write_config

BASE = 0.03
"""Seconds that each inference takes besides its work, so that a busy machine's noise is small beside it."""
DRIFT = 0.6
LEAK = 400_000


class Bench:
    """A folder with models, a configuration, and what is planted in which model."""

    def __init__(
        self, folder: Path, names: tuple[str, ...] = ("drifts", "leaks", "moves"), audits: str = "25s"
    ) -> None:
        self.folder = folder
        self.planted = folder / "planted.json"
        self.out = folder / "out"
        settings: dict[str, Any] = {
            "compare_outputs": False,
            "timeout": "30s",
            "gate": {"npu_flops": 0.3, "median": "10s"},
        }
        watched = {name: {**settings, "path": models.saved(calm(), folder, f"{name}.onnx")} for name in names}
        self.config = write_config(folder, watched, options={"soc_model": "58"})
        text = self.config.read_text()
        self.config.write_text(text.replace("[monitor]\n", f'[monitor]\naudit_interval = "{audits}"\n'))
        self.plant({name: {"base": BASE} for name in names})

    def plant(self, planted: dict[str, dict[str, float]]) -> None:
        """What each model's inferences do from its next probe on."""
        self.planted.write_text(json.dumps(planted))

    def plant_all(self, over: float) -> None:
        """A drift of :data:`DRIFT` each ``over`` seconds in one model, and a leak in another."""
        now = time.time()
        drift = {"base": BASE, "drift": DRIFT, "began": now, "over": over}
        self.plant({"drifts": drift, "leaks": {"base": BASE, "leak": LEAK}, "moves": {"base": BASE}})

    def move(self) -> None:
        """Deploy a model in the place of ``moves`` whose Selu stays on the CPU."""
        other = models.saved(models.selu_qdq(8, 8), self.folder, "other.onnx")
        shutil.move(other, self.folder / "moves.onnx")

    @property
    def environment(self) -> dict[str, str]:
        """What has the probes do what is planted."""
        return {"PYTHONPATH": INSIDE_PROBES, "NPUMON_TEST_SOAK": str(self.planted)}

    def command(self, duration: str, *more: str) -> tuple[str | Path, ...]:
        """The command's arguments."""
        return ("soak", "-c", self.config, "--duration", duration, "--out", self.out, *more)

    def run(self, duration: str) -> Done:
        """A soak to its end."""
        return npumon(*self.command(duration), cwd=None, **self.environment)

    def summary(self) -> dict[str, Any]:
        """What the soak wrote for programs."""
        found: dict[str, Any] = json.loads((self.out / "summary.json").read_text())
        return found

    def findings(self) -> dict[str, list[str]]:
        """The kinds of findings of each model."""
        return {model["model"]: [one["kind"] for one in model["findings"]] for model in self.summary()["models"]}


def calm() -> ModelProto:
    """The network of :func:`models.selu_qdq` with a Relu for its Selu: all of it on the accelerator."""
    proto = models.selu_qdq(8, 8)
    for node in proto.graph.node:
        if node.op_type == "Selu":
            node.op_type = "Relu"
    return proto
