"""What is shipped is listed with its terms."""

from __future__ import annotations

from email.message import Message

import pytest

from tools import licences


def test_the_page_lists_what_the_pins_ship() -> None:
    """docs/licences.md is what `make licences` would write now; another version or package must pass there first."""
    assert licences.PAGE.read_text() == licences.page()


def test_terms_that_nobody_looked_at_stop_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pinned package whose licence asks for more than a notice is named, and no page is written."""
    monkeypatch.setattr(licences, "declared", lambda facts: "MIT OR AGPL-3.0-only")
    with pytest.raises(SystemExit, match=r"^apscheduler: terms nobody has looked at: AGPL-3.0-only; see "):
        licences.page()


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
