"""Fetches a current Prometheus, Alertmanager and VictoriaMetrics, for tests on more than what is installed.

They are Debian's packages of the suite sid, from the mirror that this machine's own apt is set up with, unpacked into
the cache that ``fetch_models`` uses. Nothing is installed, no root is needed. What is there is kept; ``--renew``
fetches anew, since sid moves.

``python -m tools.prometheus`` prints the directory that has the programs, to be put in front of PATH.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tools import fetch_models

SUITE = "sid"
PACKAGES = ("prometheus", "promtool", "prometheus-alertmanager", "victoria-metrics")
LEAST = 3
"""Prometheus' major version that has to come of it, or the tests would show nothing new."""
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"


class FetchError(Exception):
    """The packages could not be had; the message says what was tried."""


def directory(renew: bool = False) -> Path:
    """Where the programs are, fetched if need be; raises :class:`FetchError`."""
    home = fetch_models.cache().parent / "prometheus"
    if renew or not home.is_dir():
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent, prefix=".fetching-") as scratch:
            _fetch(Path(scratch))
            shutil.rmtree(home, ignore_errors=True)
            (Path(scratch) / "unpacked").rename(home)
    return home / "usr" / "bin"


def mirror() -> str:
    """The address of the Debian archive that apt on this machine asks."""
    told = _run("apt-get", "indextargets", "--format", "$(ORIGIN) $(RELEASE) $(REPO_URI)", "Created-By: Packages")
    for line in told.splitlines():
        origin, _, rest = line.partition(" ")
        release, _, address = rest.partition(" ")
        if origin == "Debian" and "security" not in release:
            return address
    raise FetchError("apt has no list of a Debian archive; set one up and run apt-get update")


def _fetch(scratch: Path) -> None:
    for folder in ("lists/partial", "cache/archives/partial", "unpacked"):
        (scratch / folder).mkdir(parents=True)
    source = f"deb [signed-by={KEYS}] {mirror()} {SUITE} main\n"
    (scratch / "sources.list").write_text(source, encoding="utf-8")
    settings = {
        "Dir::Etc::sourcelist": scratch / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": scratch / "lists",
        "Dir::Cache": scratch / "cache",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-qq", *(word for key, value in settings.items() for word in ("-o", f"{key}={value}"))]
    _run(*apt, "update")
    _run(*apt, "download", *PACKAGES, cwd=scratch)
    for package in scratch.glob("*.deb"):
        _run("dpkg-deb", "-x", str(package), str(scratch / "unpacked"))
    told = _run(str(scratch / "unpacked" / "usr" / "bin" / "prometheus"), "--version")
    found = re.search(r"version (\d+)\.", told)
    if found is None or int(found[1]) < LEAST:
        raise FetchError(f"{SUITE} has no Prometheus {LEAST}: {told.splitlines()[0]}")


def _run(*command: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=600)
    except OSError as error:
        raise FetchError(f"{command[0]}: {error.strerror}; this needs Debian's apt and dpkg") from error
    if done.returncode:
        raise FetchError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout + done.stderr


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the directory; the exit code."""
    parser = argparse.ArgumentParser(description="Fetch a current Prometheus and what goes with it.")
    parser.add_argument("--renew", action="store_true", help="fetch anew what was fetched before")
    try:
        print(directory(parser.parse_args(arguments).renew))
    except FetchError as error:
        print(f"prometheus: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
