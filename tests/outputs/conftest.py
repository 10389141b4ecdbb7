"""Golden files: expected text beside the tests, rewritten by ``pytest tests/outputs --update-golden``.

A failing comparison is looked at, then either the code or the file is mended; the diff of the file is the review.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

GOLDEN = Path(__file__).with_name("golden")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the flag that rewrites the golden files."""
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files of tests/outputs")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """A function that compares a text with the golden file of that name, or rewrites the file."""
    # Not registered when pytest starts above this directory: then nothing is to be rewritten.
    update = bool(request.config.getoption("--update-golden", default=False))

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if update:
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), f"differs from {path.name}; pytest --update-golden rewrites it"

    return compare
