"""``npumon audit --html``: the picture of a real audit, and of one that could not measure."""

from __future__ import annotations

from pathlib import Path

from monitor.outputs import text, wording
from tests import models
from tests.e2e.running import npumon
from tests.outputs.specimens import FALLBACK


def test_an_audit_is_drawn(tmp_path: Path) -> None:
    """Table and file from one audit: verdict, culprit and its reason, both partitions, hand-offs."""
    path, page = models.saved(models.selu_qdq(), tmp_path, "selu.onnx"), tmp_path / "selu.html"
    done = npumon("audit", path, "-o", "soc_model=58", "--html", page)
    assert done.code in (0, 1)
    assert "2 partitions, 4 hand-offs" in done.out
    drawn = page.read_text(encoding="utf-8")
    assert "4 hand-offs between NPU and CPU" in drawn
    assert "Selu <code>selu</code>" in drawn
    assert "failed to create ELU node" in drawn
    assert ">P1</b>" in drawn
    assert ">P2</b>" in drawn
    assert "prediction for a board" in drawn


def test_what_could_not_be_measured_is_a_page_too(tmp_path: Path) -> None:
    """Exit code 3, and a file that says why instead of an old or an empty one."""
    page = tmp_path / "none.html"
    assert npumon("audit", tmp_path / "none.onnx", "--html", page).code == 3
    assert "Nothing was measured" in page.read_text(encoding="utf-8")


def test_handoffs_are_told_only_if_counted() -> None:
    """A placement without a profiled run has no hand-offs in words, and no key in JSON."""
    placement = FALLBACK.placement
    assert placement is not None
    assert placement.handoffs is None
    assert wording.partitions(placement) == "4 partitions"
    assert "handoffs" not in text.audit_document(FALLBACK)
