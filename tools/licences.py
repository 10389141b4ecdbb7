"""Writes docs/licences.md: what npumon installs on a board, and under which terms.

The packages are those that requirements/run.txt pins for Linux; their terms are read from what is installed, since a
package's metadata is the statement of its authors. Terms that nobody has looked at stop the run: a licence that asks
more of whoever ships a board than a notice is a decision, not an update.

Run ``python -m tools.licences`` in an environment that holds the pinned packages (``make licences``); ``--check`` only
says whether the page is in step.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from email.message import Message
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple, cast

ROOT: Final = Path(__file__).resolve().parent.parent
PINS: Final = ROOT / "requirements" / "run.txt"
PAGE: Final = ROOT / "docs" / "licences.md"

KNOWN: Final = {
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "MIT License": "MIT",
}
"""What older metadata calls a licence, by its SPDX name."""
PERMISSIVE: Final = {"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "MIT", "PSF-2.0", "Zlib"}
"""Terms that ask for a notice at most (https://spdx.org/licenses/)."""
_TERMS: Final = re.compile(r"licen[cs]e|notice|copying|privacy", re.IGNORECASE)


class Package(NamedTuple):
    """A package as it is shipped: its pinned versions, its SPDX expression, and the files that state terms."""

    name: str
    versions: tuple[str, ...]
    licence: str
    files: tuple[str, ...]


def pins(text: str) -> dict[str, tuple[str, ...]]:
    """The pinned versions of each package on Linux, from the text of a requirements file."""
    found: dict[str, tuple[str, ...]] = {}
    for name, version, marker in re.findall(r"^([A-Za-z0-9._-]+)==(\S+)(.*)\\$", text, re.MULTILINE):
        if "win32" not in marker:
            found[name] = (*found.get(name, ()), version)
    return found


def shipped(folders: Sequence[str]) -> Iterator[Package]:
    """Each pinned package, by what lies in ``folders``.

    Raises :class:`SystemExit` if one is not installed or its terms are not known.
    """
    for name, versions in pins(PINS.read_text()).items():
        installed = next(iter(metadata.distributions(name=name, path=list(folders))), None)
        if installed is None:
            raise SystemExit(f"{name} is not installed here; run `make licences`")
        licence = declared(cast("Message", installed.metadata))
        if unknown := set(re.split(r" AND | OR ", licence)) - PERMISSIVE:
            raise SystemExit(f"{name}: terms nobody has looked at: {', '.join(sorted(unknown))}; see {__file__}")
        yield Package(name, versions, licence, tuple(terms(installed)))


def declared(facts: Message) -> str:
    """The SPDX expression of a package: stated as such, or translated from the older fields."""
    if expression := facts.get("License-Expression"):
        return str(expression)
    classifiers = [one.rpartition(" :: ")[2] for one in facts.get_all("Classifier") or () if one.startswith("License")]
    stated = str(facts.get("License") or "") or next(iter(classifiers), "")
    names = {"BSD License": "BSD-3-Clause", "Apache Software License": "Apache-2.0"}
    return KNOWN.get(stated) or names.get(stated) or stated


def terms(installed: metadata.Distribution) -> Iterator[str]:
    """The files at the top of a package that state terms, by name."""
    seen = set[str]()
    for file in installed.files or ():
        path = PurePosixPath(str(file))
        inside = path.parent.name == "licenses" or len(path.parts) == 2
        if inside and path.suffix != ".py" and _TERMS.search(path.name) and path.name not in seen:
            seen.add(path.name)
            yield path.name


def page(folders: Sequence[str]) -> str:
    """The whole page, from the packages installed in ``folders``."""
    rows = "".join(
        f"| {one.name} | {', '.join(one.versions)} | {one.licence} | {', '.join(sorted(one.files))} |\n"
        for one in shipped(folders)
    )
    return f"""# Licences

What `make install` and the bundle put on a board beside npumon itself (Apache-2.0), as pinned in
`requirements/run.txt` for every supported Python. Written by `make licences` from the packages' own metadata.
`make sbom` lists the packages of one bundle, read from it, as a CycloneDX document: that of the default bundle, or of
the one for `MACHINE=` and `BOARD_PYTHON=`.

| package | version | licence | files that state terms |
|---|---|---|---|
{rows}
The wheel of onnxruntime-qnn holds libraries of Qualcomm's QNN SDK. Their terms are in its `Qualcomm_LICENSE.pdf`; the
metadata's MIT is for the provider's own code. Two versions of a package: the older one is for Python 3.11.
"""


def main(arguments: list[str]) -> int:
    text = page(sys.path)
    if arguments == ["--check"]:
        return 0 if PAGE.read_text() == text else 1
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
