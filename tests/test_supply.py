"""What is shipped is listed with its terms."""

from __future__ import annotations

import json
import os
import re
import sys
from email.message import Message
from pathlib import Path

import pytest
from packaging.markers import Marker

from monitor import __version__
from tests import checkout
from tools import licences

SUPPLY = checkout.ROOT / ".venv-supply"


def test_the_page_lists_what_the_pins_ship() -> None:
    """docs/licences.md is what `make licences` would write now; another version or package must pass there first."""
    assert licences.PAGE.read_text() == licences.page(sys.path)


def test_terms_that_nobody_looked_at_stop_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pinned package whose licence asks for more than a notice is named, and no page is written."""
    monkeypatch.setattr(licences, "declared", lambda facts: "MIT OR AGPL-3.0-only")
    with pytest.raises(SystemExit, match=r"^apscheduler: terms nobody has looked at: AGPL-3.0-only; see "):
        licences.page(sys.path)


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ({"License-Expression": "MIT AND 0BSD", "License": "other"}, "MIT AND 0BSD"),
        ({"License": "3-Clause BSD License"}, "BSD-3-Clause"),
        ({"Classifier": "License :: OSI Approved :: Apache Software License"}, "Apache-2.0"),
        ({"Classifier": "Programming Language :: Python"}, ""),
    ],
)
def test_a_licence_is_read_from_old_and_new_metadata(fields: dict[str, str], licence: str) -> None:
    """The SPDX expression wins; without one, the older field or the classifier is translated."""
    facts = Message()
    for key, value in fields.items():
        facts[key] = value
    assert licences.declared(facts) == licence


def test_a_pin_for_windows_is_not_shipped() -> None:
    """Two versions of a package, for two Pythons, are one row; what only Windows needs is none."""
    text = "a==1 ; python_full_version < '3.12' \\\n  --hash=x\na==2 ; python_full_version >= '3.12' \\\n"
    assert licences.pins(text + "b==3 ; sys_platform == 'win32' \\\n") == {"a": ("1", "2")}


@pytest.mark.slow  # not for its time: CI makes no environment for it
@pytest.mark.parametrize(
    ("given", "machine", "python"), [({}, "aarch64", "3.12"), ({"BOARD_PYTHON": "3.11"}, "aarch64", "3.11")]
)
def test_the_sbom_is_of_the_bundle(given: dict[str, str], machine: str, python: str, tmp_path: Path) -> None:
    """`make sbom` lists what `make bundle` of the same variables ships, each package in the board's own version."""
    if not (SUPPLY / "bin/cyclonedx-py").exists():
        wanting = "no .venv-supply; make .venv-supply/.done"
        pytest.fail(wanting) if os.environ.get("CI") else pytest.skip(wanting)
    copy = checkout.copied(tmp_path / "checkout")
    (copy / ".venv-supply").symlink_to(SUPPLY)
    written = checkout.make(copy, "sbom", **given).splitlines()[-1]
    (packages,) = (copy / "build").glob(f"npumon-*-{machine}-py{python}/packages")
    assert written == f"dist/{packages.parent.name}.cdx.json"
    listed = json.loads((copy / written).read_text())
    seen = {(one["name"].replace("_", "-").lower(), one["version"]) for one in listed["components"]}
    pinned = licences.PINS.read_text()
    board = {"sys_platform": "linux", "python_full_version": f"{python}.0"}
    assert seen == {
        (name, version)
        for name, version, marker in re.findall(r"^([\w.-]+)==([^ \\]+)(?: ; ([^\\]+))?", pinned, re.MULTILINE)
        if not marker or Marker(marker.strip()).evaluate(board)
    }
    infos = {tuple(path.name.removesuffix(".dist-info").split("-")) for path in packages.glob("*.dist-info")}
    assert {(name.replace("_", "-").lower(), version) for name, version in infos} - seen == {("npumon", __version__)}
    assert (listed["metadata"]["component"]["name"], listed["metadata"]["component"]["version"]) == (
        "npumon",
        __version__,
    )
