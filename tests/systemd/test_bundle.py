"""What a board is given: the bundle's contents for its processor and Python, and the unit's exposure."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from monitor import __version__
from tools import bundle as bundles
from tools import licences

ROOT = Path(__file__).parents[2]
AARCH64, X86_64 = 183, 62  # e_machine, elf(5)


def test_a_bundle_has_the_boards_binaries_at_the_pinned_versions(wheel: Path, tmp_path: Path) -> None:
    """Made on another machine with another Python, it has aarch64 libraries for CPython 3.12 and nothing to resolve.

    The terms that its packages state are those of docs/licences.md, which was written from another Python's.
    """
    home = bundles.bundle(wheel, "aarch64", "3.12", tmp_path)
    packages = home / "packages"
    assert home.name == f"{wheel.name.split('-py3')[0]}-aarch64-py3.12"
    libraries = [path for path in packages.rglob("*.so*") if path.read_bytes()[:4] == b"\x7fELF"]
    hosts = [path for path in libraries if "onnxruntime_qnn" not in path.parts]  # it also has the DSP's own
    assert {int.from_bytes(path.read_bytes()[18:20], "little") for path in hosts} == {AARCH64}
    assert {found[1] for path in libraries if (found := re.search(r"\.cpython-(\d+)-", path.name))} == {"312"}
    pinned = re.findall(r"^([\w.-]+)==([^ \\]+)( ; [^\\\n]*)?", (ROOT / "requirements/run.txt").read_text(), re.M)
    wanted = {(name, version) for name, version, marker in pinned if "win32" not in marker and "< '3.12'" not in marker}
    infos = {tuple(path.name.removesuffix(".dist-info").split("-")) for path in packages.glob("*.dist-info")}
    assert {(name.replace("-", "_"), version) for name, version in wanted} < infos
    assert {name for name, _ in infos} - {name.replace("-", "_") for name, _ in wanted} == {"npumon"}
    assert licences.page([str(packages)]) == licences.PAGE.read_text()
    for name in ("install.sh", "npumon.service", "npumon.toml"):
        assert (home / name).read_bytes() == (ROOT / "systemd" / name).read_bytes()


def test_a_bundle_that_cannot_be_made_says_why(wheel: Path, tmp_path: Path) -> None:
    """There are no packages for a Python of long ago: one line, exit code 1."""
    command = [
        sys.executable,
        "-m",
        "tools.bundle",
        "--wheel",
        str(wheel),
        "--python",
        "3.8",
        "--folder",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert re.match(r"bundle: no packages for \w+ and Python 3\.8: ", done.stderr)


def test_no_bundle_is_made_of_an_older_wheel(tmp_path: Path) -> None:
    """Where the two places of the version differ, `make wheel` has built another one than is asked for."""
    for name in ("tools/bundle.py", "monitor/__init__.py", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    file = tmp_path / "pyproject.toml"
    file.write_text(re.sub(r'^version = ".*"$', 'version = "999.0"', file.read_text(), flags=re.M))
    command = [sys.executable, "tools/bundle.py", "--folder", str(tmp_path / "build")]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    said = f"pyproject.toml has version 999.0, monitor/__init__.py {__version__}"
    mend = "write the same one in both, and make bundle again"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"bundle: {said}; {mend}\n")


def test_the_installer_is_plain_sh() -> None:
    """A strict POSIX shell reads it, and it uses no tool that busybox does not have."""
    text = (ROOT / "systemd/install.sh").read_text()
    subprocess.run([shutil.which("dash") or "sh", "-n"], input=text, text=True, check=True)
    assert not re.findall(r"\[\[|\blocal \b|<<<|\bfunction |\bmv -T|\bln -\w*T|\binstall -", text)


def test_every_loosened_restriction_has_its_reason_in_the_unit(tmp_path: Path) -> None:
    """What `systemd-analyze security` holds against the unit is named there, each setting in a comment beside it."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine")
    text = (ROOT / "systemd/npumon.service").read_text()
    unit = tmp_path / "npumon.service"
    unit.write_text(text.replace("/opt/npumon/bin/npumon", sys.executable))
    command = ["systemd-analyze", "security", "--offline=true", "--json=short", str(unit)]
    rows = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    loose = [row["name"] for row in rows if not row["set"]]
    assert "PrivateDevices=" in loose
    comments = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    for name in loose:  # as in SystemCallFilter=~@resources, RestrictAddressFamilies=~AF_(INET|INET6), ProcSubset=
        words = re.findall(r"@\w+|AF_\w+", name.replace("(", "")) or re.findall(r"^\w+=", name)
        assert words
        assert all(word in comments for word in words), name
