"""Makes an aarch64 board of this machine, so that the board's own binaries can be tried where there is no board.

Python 3.11 and the C library are Debian's for arm64, the packages are the aarch64 wheels of requirements/run.txt, and
QEMU's user mode runs them: one process of this machine for each process of the board. No root is needed and nothing is
installed, but this machine must be a Debian, whose apt fetches packages of another architecture and checks their
signatures. Bookworm's own QEMU (7.2) crashes in onnxruntime, hence the backport.

What was fetched lies in a cache outside git, beside the models of fetch_models.py. A folder there appears only when
complete; remove it to fetch anew.

Run ``python -m tools.emulation`` to fetch only; it prints the folders.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from packaging.markers import Marker

from tools.fetch_models import cache

PINS: Final = Path(__file__).resolve().parent.parent / "requirements" / "run.txt"
SUITE, QEMU_SUITE = "bookworm", "bookworm-backports"
QEMU: Final = "qemu-aarch64"
PACKAGES: Final = ("python3.11", "python3-pip-whl", "libstdc++6")
PYTHON: Final = "3.11"
TAGS: Final = ("manylinux2014", *(f"manylinux_2_{minor}" for minor in range(17, 37)))
"""What runs on bookworm's C library, 2.36. pip takes a platform's name literally, not as an upper limit."""
KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# The board's interpreter is this script. sys.executable is then the script too, or the link to it in an environment,
# so that whatever starts its own interpreter again, as npumon does for its probes, starts it emulated.
_INTERPRETER = """#!/bin/sh
exec "{qemu}" -L "{root}" -0 "$0" "{root}/usr/bin/python{python}" "$@"
"""


class EmulationError(Exception):
    """The board could not be made; the message says why and what mends it."""


class Board:
    """A board in ``root``: paths below it hide this machine's of the same name, all others are this machine's.

    Only paths that are opened or listed are looked up there, not those that are made, so that it has no /tmp.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.python = root / "usr/bin/python3"
        self.environment = root / "opt/npumon"

    @property
    def npumon(self) -> Path:
        """The installed command."""
        return self.environment / "bin/npumon"

    @property
    def node(self) -> Path:
        """The compute DSP's device node, if there is one."""
        return self.root / "dev/fastrpc-cdsp"

    def run(self, *command: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the board to its end, with the variables ``more``."""
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=environment(**more)
        )


def environment(**more: str) -> dict[str, str]:
    """The variables of this process, without those that are about this machine's own interpreter and libraries."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LD_", "PIP_"))}
    return kept | {"ORT_DISABLE_TELEMETRY": "1", **more}


def make(root: Path, wheel: Path) -> Board:
    """A board in the folder ``root``, which is made, with npumon's own ``wheel`` installed by the board's pip.

    Raises :class:`EmulationError`.
    """
    qemu, debs, wheels = fetch()
    for deb in sorted(debs.glob("*.deb")):
        _run("dpkg-deb", "-x", deb, root)
    for name in ("tmp", "proc", "sys", "run"):
        shutil.rmtree(root / name, ignore_errors=True)
    (root / "dev").mkdir()
    board = Board(root)
    board.python.write_text(_INTERPRETER.format(qemu=qemu / QEMU, root=root, python=PYTHON))
    board.python.chmod(0o755)
    _on(board, board.python, "-m", "venv", "--without-pip", board.environment)
    _install(board, wheels, "--require-hashes", "--only-binary=:all:", "--requirement", PINS)
    _install(board, wheels, "--no-deps", wheel)
    return board


def fetch() -> tuple[Path, Path, Path]:
    """The folders with QEMU, with the arm64 packages and with the aarch64 wheels, fetched if need be."""
    pins = hashlib.sha256(PINS.read_bytes()).hexdigest()[:16]
    return (
        _cached(f"qemu-{QEMU_SUITE}", _fetch_qemu),
        _cached(f"debs-{SUITE}-arm64", _fetch_debs),
        _cached(f"wheels-{PYTHON}-aarch64-{pins}", _fetch_wheels),
    )


def _cached(name: str, fill: Callable[[Path, Path], None]) -> Path:
    """The folder ``name`` of the cache; ``fill`` gets a new one, and one for what it needs meanwhile."""
    home = cache().parent / "emulation" / name
    if home.is_dir():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".fetching-") as scratch:
        new, work = Path(scratch) / "new", Path(scratch) / "work"
        new.mkdir()
        work.mkdir()
        fill(new, work)
        try:
            new.rename(home)
        except OSError:
            # Two runs may fetch at once: whoever is second finds the same there.
            if not home.is_dir():
                raise
    return home


def _fetch_qemu(new: Path, work: Path) -> None:
    """QEMU's emulator of aarch64 alone, of some thirty."""
    machine = _run("dpkg", "--print-architecture").strip()
    apt = _apt(work, QEMU_SUITE, machine)
    _run("apt-get", *apt, "download", "qemu-user", cwd=work)
    (deb,) = work.glob("*.deb")
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as unpacking,
        tarfile.open(fileobj=unpacking.stdout, mode="r|") as archive,
    ):
        for member in archive:
            if Path(member.name).name == QEMU and (program := archive.extractfile(member)):
                (new / QEMU).write_bytes(program.read())
                (new / QEMU).chmod(0o755)
    if not (new / QEMU).is_file():
        raise EmulationError(f"{deb.name} has no {QEMU}: correct {Path(__file__).name}")


def _fetch_debs(new: Path, work: Path) -> None:
    """Python and all that it depends on, for arm64."""
    apt = _apt(work, SUITE, "arm64")
    _run("apt-get", *apt, "install", "--yes", "--download-only", "--no-install-recommends", *PACKAGES)
    for deb in (work / "cache" / "archives").glob("*.deb"):
        shutil.move(deb, new)


def _fetch_wheels(new: Path, work: Path) -> None:
    """Every package of requirements/run.txt, checked against its hashes."""
    pins = work / "run.txt"
    pins.write_text("\n".join(wanted()))
    platforms = [word for tag in TAGS for word in ("--platform", f"{tag}_aarch64")]
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    version = ["--python-version", PYTHON]
    _run(sys.executable, "-m", "pip", "download", *options, *version, *platforms, "--dest", new, "--requirement", pins)


def wanted() -> list[str]:
    """The pins for the board's Python, with their hashes; pip's download would ask markers about the running one."""
    board = {
        "python_full_version": f"{PYTHON}.2",
        "python_version": PYTHON,
        "sys_platform": "linux",
        "platform_machine": "aarch64",
    }
    pattern = re.compile(r"^(\S+==[^\s;]+)(?: ; (.*?))? +(--hash=.*)$")
    lines = PINS.read_text().replace("\\\n", " ").splitlines()
    pins = [found for line in lines if (found := pattern.match(line))]
    return [f"{pin[1]} {pin[3]}" for pin in pins if pin[2] is None or Marker(pin[2]).evaluate(dict(board))]


def _apt(work: Path, suite: str, machine: str) -> list[str]:
    """Options that give apt a world of its own below ``work``: one suite, one architecture, nothing installed."""
    sources, status = work / "sources.list", work / "status"
    sources.write_text(f"deb [arch={machine} signed-by={KEYRING}] {_archive()} {suite} main\n")
    status.touch()
    for folder in ("lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True)
    settings = {
        "APT::Architecture": machine,
        "APT::Architectures::": machine,
        "APT::Sandbox::User": getpass.getuser(),
        "Dir::Cache": work / "cache",
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": os.devnull,
        "Dir::State::lists": work / "lists",
        "Dir::State::status": status,
    }
    options = ["-qq", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]
    _run("apt-get", *options, "update")
    return options


def _archive() -> str:
    """Where this machine gets Debian from: the archive itself, not its updates, and nobody else's packages."""
    missing = f"{KEYRING} and a Debian archive among apt's sources are needed"
    if not KEYRING.is_file():
        raise EmulationError(f"this machine is no Debian: {missing}")
    listed = _run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
    for uri, release, component in (line.split() for line in listed.splitlines() if line.count(" ") == 2):
        if uri.rstrip("/").endswith("/debian") and "-" not in release and component == "main":
            return uri
    raise EmulationError(f"apt has no source of Debian: {missing}")


def _install(board: Board, wheels: Path, *what: str | Path) -> None:
    """Install with the pip of Debian's python3-pip-whl, which runs on the board. Not compiled: most is never used."""
    (pip,) = (board.root / "usr/share/python-wheels").glob("pip-*.whl")
    options = ["--quiet", "--no-compile", "--no-cache-dir", "--disable-pip-version-check"]
    quiet = {"PIP_CONFIG_FILE": os.devnull, "PIP_ROOT_USER_ACTION": "ignore"}
    only = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    _on(board, board.environment / "bin/python", pip / "pip", "install", *options, *what, **quiet, **only)


def _on(board: Board, *command: str | Path, **more: str) -> None:
    done = board.run(*command, **more)
    if done.returncode:
        raise EmulationError(f"{' '.join(map(str, command[1:4]))} failed on the board: {_last(done.stderr)}")


def _run(*command: str | Path, cwd: Path | None = None) -> str:
    """What a program of this machine prints."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd=cwd)
    except FileNotFoundError as error:
        raise EmulationError(f"no {command[0]} on this machine; it takes a Debian to emulate a board") from error
    if done.returncode:
        raise EmulationError(f"{' '.join(map(str, command[:2]))} failed: {_last(done.stderr)}")
    return done.stdout


def _last(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it did not say why")


def main() -> int:
    """Fetch all, and print where it is; the exit code."""
    try:
        print(*fetch(), sep="\n")
    except EmulationError as error:
        print(f"emulation: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
