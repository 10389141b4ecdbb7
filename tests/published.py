"""The published models by the short names that tests use, fetched on first use.

Nothing here skips: a model that cannot be had fails the test that asked for it, everywhere, because a suite that
passes without the real models has not shown anything.
"""

from __future__ import annotations

from pathlib import Path

from tools.fetch_models import MODELS, model

NAMES = tuple(MODELS)


def published(name: str) -> Path:
    """The file of the published model ``name`` (one of ``NAMES``)."""
    return model(name)
