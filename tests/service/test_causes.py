"""Whether the cause is right: real sessions that are known to go wrong in one way, each told as that and nothing else.

The latency's causes are counted where its faults are, in ``benchmarks/detection``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import pytest

from monitor.config import Gate
from tests import models
from tests.compiling import compiled, made_by
from tests.probing import audited

ALL = Gate(npu_flops=1.0)


class Case(NamedTuple):
    """A model, how its session is made, and what is wrong with that."""

    cause: str | None
    path: Callable[[Path], Path]
    settings: dict[str, Any]


def selu(folder: Path) -> Path:
    """All of it is on the accelerator of soc_model 60."""
    return models.saved(models.selu_qdq(), folder, "selu.onnx")


def free(folder: Path) -> Path:
    """A dimension that nobody fixes."""
    return models.saved(models.free_dims("n", 16), folder, "free.onnx")


def foreign(folder: Path) -> Path:
    """A context that says that a newer SDK made it, and whose binary is cut short."""
    path = made_by(compiled(selu(folder)), "v9.99.0")
    proto = onnx.load(str(path))
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.name == "ep_cache_context":
                attribute.s = attribute.s[: len(attribute.s) // 2]
    onnx.save(proto, str(path))
    return path


CASES = {
    "nothing": Case(None, selu, {"options": {"soc_model": "60"}, "gate": ALL}),
    "another SoC": Case("op_unsupported", selu, {"options": {"soc_model": "58"}, "gate": ALL}),
    "unknown SoC": Case("accelerator_unavailable", selu, {"options": {"soc_model": "9999"}}),
    "refused SoC": Case("accelerator_unavailable", selu, {"options": {"soc_model": "80"}}),
    "no library": Case("accelerator_unavailable", selu, {"options": {"backend_path": "/opt/nowhere/libQnnHtp.so"}}),
    "free dimension": Case("dynamic_shape", free, {}),
    "fixed dimension": Case(None, free, {"dims": {"n": 4}}),
    "foreign context": Case("context_mismatch", foreign, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_cause_is_the_one_that_was_planted(name: str, tmp_path: Path) -> None:
    """One planted fault, one cause; and none where nothing was planted."""
    case = CASES[name]
    result = audited(case.path(tmp_path), **case.settings)
    assert result.cause == case.cause, result.reason
    assert (result.verdict == "healthy") == (case.cause is None), result.reason


@pytest.mark.parametrize("name", ["swift_f0", "ppocr_cls", "minilm"])
def test_the_cause_of_published_models_as_shipped(name: str, published: Callable[[str], Path]) -> None:
    """They have free dimensions, which is why the provider refuses them."""
    assert audited(published(name)).cause == "dynamic_shape"
