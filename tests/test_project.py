"""What holds for the project as a whole: its boundaries, its pins, its unit, and what must never be committed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

import monitor
from tests.certificates import Authority
from tools import fetch_models

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
HEAVY = {"numpy", "onnx", "onnxruntime", "onnxruntime_qnn"}

# Written in halves, so that this file does not contain what it looks for.
FORBIDDEN = tuple(
    "".join(halves)
    for halves in (
        ("pypi.", "org"),
        ("pythonhosted.", "org"),
        ("npmjs.", "org"),
        ("deb.debian.", "org"),
        ("--index-", "url"),
        ("--extra-index-", "url"),
        ("--find-", "links"),
        ("/tmp", "/s/"),
        ("/work", "/"),
        ("/root", "/"),
        ("/opt/", "pypi"),
    )
)


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def _committed() -> Iterator[Path]:
    """Every file of the project, as a checkout without build products has them."""
    for top in sorted(ROOT.iterdir()):
        if (top.name.startswith(".") and top.name not in {".ci", ".gitignore"}) or top.name in {"build", "dist"}:
            continue
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.is_file() and not any(p == "__pycache__" or p.endswith(".egg-info") for p in path.parts):
                yield path


def _pinned(name: str) -> dict[str, set[str]]:
    """Distribution -> its lines in requirements/``name``.txt: more than one where Pythons differ."""
    lines: dict[str, set[str]] = {}
    for match in re.finditer(
        r"^([A-Za-z0-9][\w.-]*)==[^\n\\]*", (REQUIREMENTS / f"{name}.txt").read_text(), re.MULTILINE
    ):
        lines.setdefault(_normalized(match[1]), set()).add(match[0].strip())
    return lines


def _normalized(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\s<>=!~;\[]", requirement, maxsplit=1)[0]).lower()


def _run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_version_is_said_once() -> None:
    """The distribution's version is the package's own."""
    assert _project()["project"]["version"] == monitor.__version__


def test_changelog_collects_what_is_unreleased() -> None:
    """The changelog opens with the changes since the last release, and the current version is listed once released."""
    headings = re.findall(r"^## \[([^]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert len(headings) == len(set(headings))


def test_command_is_installed() -> None:
    """The console script npumon leads to a function that exists."""
    (script,) = entry_points(group="console_scripts", name="npumon")
    assert callable(script.load())


def test_module_runs_as_the_command() -> None:
    """``python -m monitor`` is the npumon command."""
    done = _run(sys.executable, "-m", "monitor", "--help")
    assert done.returncode == 0, done.stderr
    assert "check-config" in done.stdout


def test_import_contracts_hold() -> None:
    """The layers, the independence of probe, analysis and outputs, and the light parent hold."""
    done = _run(Path(sys.executable).parent / "lint-imports", "--no-cache")
    assert done.returncode == 0, done.stdout + done.stderr


def test_parent_imports_nothing_heavy() -> None:
    """Every module of the parent together loads neither the runtimes nor numpy, also not through a dependency."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "monitor").rglob("*.py")
        if not {"probe", "capture"} & set(path.parts) and path.name != "__main__.py"
    ]
    assert "monitor.records" in modules
    program = f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\nprint(*sys.modules)"
    done = _run(sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr
    assert {name.partition(".")[0] for name in done.stdout.split()} & HEAVY == set()


@pytest.mark.parametrize("name", ["run", "demo", "dev", "models"])
def test_everything_fetched_is_pinned_and_hashed(name: str) -> None:
    """Each requirement is one exact version with at least one sha256, and no option changes where it comes from."""
    text = (REQUIREMENTS / f"{name}.txt").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert lines
    for line in lines:
        assert re.match(r"^[A-Za-z0-9][\w.-]*==[\w.+!]+(\s*;[^#]*?)?\s+--hash=sha256:[0-9a-f]{64}\b", line), line


def test_environments_agree() -> None:
    """What is tested is what runs on the board: demo and dev pin every runtime package as run does."""
    runtime = _pinned("run")
    for name in ("demo", "dev"):
        assert {package: _pinned(name).get(package) for package in runtime} == runtime


def test_every_dependency_is_pinned() -> None:
    """Nobody has forgotten ``make pins`` after a new dependency."""
    about = _project()
    extras = about["project"]["optional-dependencies"]
    groups = about["dependency-groups"]
    declared = {
        "run": about["project"]["dependencies"],
        "demo": about["project"]["dependencies"] + extras["demo"] + groups["build"],
        "dev": about["project"]["dependencies"] + extras["demo"] + extras["test"] + groups["dev"] + groups["build"],
    }
    for name, requirements in declared.items():
        assert {_normalized(requirement) for requirement in requirements} <= _pinned(name).keys()
    assert "setuptools" not in _pinned("run"), "boards build nothing"


def test_every_published_model_is_there(tmp_path: Path) -> None:
    """Every short name leads to the model file of a pinned wheel."""
    pins = fetch_models.pins()
    assert {distribution for distribution, _ in fetch_models.MODELS.values()} == pins.keys()
    for name in fetch_models.MODELS:
        path = fetch_models.model(name)
        assert path.stat().st_size > 10_000, path
        assert pins[fetch_models.MODELS[name][0]].directory in path.parts


def test_wrong_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel that is not the pinned one is not unpacked, and nothing half-made stays in the cache."""
    pin = fetch_models.pins()["swift-f0"]._replace(sha256="0" * 64)
    monkeypatch.setenv("NPUMON_CACHE", str(tmp_path))
    monkeypatch.setattr(fetch_models, "pins", lambda: {"swift-f0": pin})
    with pytest.raises(fetch_models.FetchError, match=r"swift-f0==0\.3\.0: pip download failed"):
        fetch_models.model("swift_f0")
    assert list((tmp_path / "models").iterdir()) == []


def test_nothing_of_a_machine_is_committed() -> None:
    """No file names a package registry's host or a path of somebody's machine."""
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in _committed()
        for word in FORBIDDEN
        if word.encode() in path.read_bytes()
    ]
    assert found == []


def test_every_decision_record_is_complete() -> None:
    """The decision records are numbered without gaps, and each says context, decision and consequences."""
    records = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [int(record.name[:4]) for record in records] == list(range(1, len(records) + 1))
    for record in records:
        text = record.read_text()
        assert text.startswith(f"# {int(record.name[:4])}. ")
        assert all(part in text for part in ("**Context.**", "**Decision.**", "**Consequences.**")), record.name


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that exists here in place of the installed one; else it is the shipped text."""
    if shutil.which("systemd-analyze") is None:
        if os.environ.get("CI"):
            pytest.fail("systemd-analyze is missing: apt-get install systemd")
        pytest.skip("no systemd-analyze on this machine")
    text = (ROOT / "systemd" / "npumon.service").read_text()
    program = "/opt/npumon/bin/npumon"
    assert f"ExecStart={program} run -c " in text
    copy = tmp_path / "npumon.service"
    copy.write_text(text.replace(f"ExecStart={program}", f"ExecStart={sys.executable}"))
    return copy


def test_unit_is_valid(unit: Path) -> None:
    """The installed systemd knows every key and value of the unit."""
    done = _run("systemd-analyze", "verify", "--man=no", "--recursive-errors=yes", unit)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_unit_with_a_misspelt_key_is_noticed(unit: Path) -> None:
    """The check above can fail: systemd's tool does not overlook an unknown key."""
    unit.write_text(unit.read_text().replace("WatchdogSec=", "WatchdogSecs="))
    done = _run("systemd-analyze", "verify", "--man=no", "--recursive-errors=yes", unit)
    assert done.returncode != 0
    assert "WatchdogSecs" in done.stderr


def test_unit_is_hardened(unit: Path) -> None:
    """The unit's exposure stays at the level that the NPU's devices and the network port need: 1.6 of 10."""
    done = _run("systemd-analyze", "security", "--offline=true", "--threshold=16", "--no-pager", unit)
    assert done.returncode == 0, done.stdout + done.stderr


def test_example_configuration_is_valid(tmp_path: Path) -> None:
    """The shipped example, also with every commented key switched on, passes check-config once its files exist."""
    text = (ROOT / "systemd" / "npumon.toml").read_text()
    opened = re.sub(r"^# (?=\[models\.gate\]|\[web(\.users)?\]|\w+ = )", "", text, flags=re.MULTILINE)
    assert opened.count("\n# ") < text.count("\n# ")
    for number, variant in enumerate((text, opened)):
        home = tmp_path / str(number)
        for wanted in ("opt/models/src", "var/lib/npumon/samples/detector", "etc/npumon/tls"):
            (home / wanted).mkdir(parents=True)
        authority = Authority(home / "etc/npumon/tls", "clients")
        authority.issue("board")
        for model in ("opt/models/detector.onnx", "opt/models/src/detector.onnx"):
            shutil.copy(fetch_models.model("swift_f0"), home / model)
        file = home / "npumon.toml"
        file.write_text(re.sub(r'"/(opt|var|etc)/', rf'"{home}/\1/', variant))
        done = _run(sys.executable, "-m", "monitor", "check-config", file)
        assert done.returncode == 0, f"{done.stderr}\n{file.read_text()}"
