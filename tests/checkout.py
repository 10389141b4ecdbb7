"""A copy of this checkout, for the tests that run `make` in one: what make builds there, the checkout does not see."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def copied(folder: Path) -> Path:
    """A copy at the new path ``folder``, without what was built, whose environment is the one that runs the tests."""
    built = shutil.ignore_patterns(".[!c]*", "build", "dist", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, folder, ignore=built)
    (folder / ".venv-dev").symlink_to(sys.prefix)
    return folder


def command(folder: Path, target: str, **variables: str) -> list[str]:
    """`make` in the copy, which leaves the environments as they are, however old."""
    kept = [word for name in (".venv-dev", ".venv-supply") for word in ("-o", f"{name}/.done")]
    assigned = [f"{name}={value}" for name, value in variables.items()]
    return ["make", "--no-print-directory", "-C", str(folder), *kept, target, *assigned]


def make(folder: Path, target: str, **variables: str) -> str:
    """Run it, which works; its stdout."""
    words = command(folder, target, **variables)
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
