"""Makes the bundle that a board is installed from: npumon, every package it runs on, the unit and the installer.

A board has no checkout, often no internet and no pip. So the packages are laid out here, as they will lie there, from
the hashed wheels of requirements/run.txt for the board's processor and Python, and the board only copies them.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from monitor import __version__

ROOT = Path(__file__).resolve().parent.parent
GLIBC = {"aarch64": "2_34", "x86_64": "2_35"}
"""Processor -> the oldest C library that the provider's wheel runs on."""


class BundleError(Exception):
    """The bundle could not be made; the message says why and what mends it."""


def bundle(wheel: Path, machine: str, python: str, folder: Path) -> Path:
    """Make ``folder``/npumon-<version>-<machine>-py<python> from npumon's own ``wheel``, anew if it is there.

    Raises :class:`BundleError`.
    """
    version = wheel.name.split("-")[1]
    home = folder / f"npumon-{version}-{machine}-py{python}"
    shutil.rmtree(home, ignore_errors=True)
    packages = home / "packages"
    packages.mkdir(parents=True)
    _fill(packages, machine, python, "--require-hashes", "--requirement", str(ROOT / "requirements" / "run.txt"))
    _fill(packages, machine, python, "--no-deps", str(wheel))
    # Their first lines name this machine's Python; the installer writes npumon's anew.
    shutil.rmtree(packages / "bin", ignore_errors=True)
    (packages / ".lock").unlink(missing_ok=True)
    for name in ("install.sh", "npumon.service", "npumon.toml"):
        shutil.copy(ROOT / "systemd" / name, home / name)
    (home / "bundle.env").write_text(f"version={version}\nmachine={machine}\npython={python}\n")
    return home


def _fill(packages: Path, machine: str, python: str, *what: str) -> None:
    target = [
        "--target",
        str(packages),
        "--python-platform",
        f"{machine}-manylinux_{GLIBC[machine]}",
        "--python-version",
        python,
    ]
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--only-binary", ":all:", *target, *what]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split())
        raise BundleError(f"no packages for {machine} and Python {python}: {said}; is a package index within reach?")


def built() -> Path:
    """The wheel that `make wheel` has made of this checkout. Raises :class:`BundleError`."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    if version != __version__:  # or an older wheel would be taken for this one
        said = f"pyproject.toml has version {version}, monitor/__init__.py {__version__}"
        raise BundleError(f"{said}; write the same one in both, and make bundle again")
    return ROOT / "dist" / f"npumon-{version}-py3-none-any.whl"


def main() -> int:
    """Print where the bundle is; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheel", type=Path)
    parser.add_argument("--machine", choices=GLIBC, default=platform.machine())
    parser.add_argument("--python", default="{}.{}".format(*sys.version_info), metavar="3.N")
    parser.add_argument("--folder", type=Path, default=ROOT / "build")
    given = parser.parse_args()
    try:
        print(bundle(given.wheel or built(), given.machine, given.python, given.folder))
    except BundleError as error:
        print(f"bundle: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
