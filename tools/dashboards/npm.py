"""Installs the npm packages that check and draw dashboards, outside git; nothing of them is shipped."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tools import fetch_models


def install(package: Path, name: str) -> Path:
    """The directory that has the packages of the file ``package``: ``name`` in the cache of ``fetch_models``.

    ``npm install`` runs if the file has changed since, or the last one was not finished. Versions are exact in the
    file; there is no lock file, because it would name a registry's host.
    """
    home = fetch_models.cache().parent / name
    wanted = package.read_text(encoding="utf-8")
    done = home / "installed.json"
    if not done.is_file() or done.read_text(encoding="utf-8") != wanted:
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(package, home / "package.json")
        command = ["npm", "install", "--ignore-scripts", "--no-package-lock", "--no-audit", "--no-fund", "--silent"]
        subprocess.run(command, cwd=home, check=True, timeout=900)
        done.write_text(wanted, encoding="utf-8")
    return home
