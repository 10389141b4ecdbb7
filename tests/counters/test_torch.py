"""Our counts of exported modules against torch's own FLOP counter.

torch is too heavy for every run: ``make test-torch`` has an environment of its own for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.counters import document

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.torch


def test_exported_modules_agree_with_torch(tmp_path: Path) -> None:
    """The products of each module are torch's to the last FLOP, and docs/counters.md says what comes on top."""
    from tests.counters import exported

    rows = exported.exports(tmp_path)
    assert [(row.name, row.products) for row in rows] == [(row.name, row.theirs) for row in rows]
    over = [row for row in rows if abs(row.ours - row.theirs) > 0.01 * row.theirs]
    assert all(exported.explanation(row) for row in over)
    assert document.parts()[document.TORCH] == exported.part(rows)
