"""Certificates made by the ``openssl`` command, so that no library is needed for tests alone."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

PLAIN = "[req]\ndistinguished_name = name\n[name]\n"
"""A configuration without the extensions that the system's adds."""


class Pair(NamedTuple):
    """A certificate and its key, as PEM files."""

    cert: Path
    key: Path


def openssl(*arguments: str | Path) -> None:
    """Run one openssl command; without the program, CI fails and a developer's test is skipped."""
    found = shutil.which("openssl")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("openssl is missing: apt-get install openssl")
        pytest.skip("no openssl on this machine")
    done = subprocess.run([found, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr


class Authority:
    """Signs certificates for 127.0.0.1 into ``folder``."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self.pair = self._make(name, "basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign")

    def issue(self, name: str) -> Pair:
        """A new pair, ``<name>.crt`` and ``<name>.key``; made again, it takes the place of the one of this name."""
        extensions = ("subjectAltName=IP:127.0.0.1", "authorityKeyIdentifier=keyid")
        return self._make(name, *extensions, signed=("-CA", self.pair.cert, "-CAkey", self.pair.key))

    def client(self, pair: Pair | None = None) -> ssl.SSLContext:
        """TLS of a client that trusts this authority, and shows the certificate of ``pair``."""
        context = ssl.create_default_context(cafile=str(self.pair.cert))
        if pair:
            context.load_cert_chain(*pair)
        return context

    def _make(self, name: str, *extensions: str, signed: tuple[str | Path, ...] = ()) -> Pair:
        config = self._folder / "openssl.cnf"
        config.write_text(PLAIN)
        made = Pair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        added = [word for one in ("subjectKeyIdentifier=hash", *extensions) for word in ("-addext", one)]
        names: tuple[str | Path, ...] = ("-subj", f"/CN={name}", "-config", config, *added)
        openssl("req", "-x509", "-days", "2", *curve, *names, *signed, "-keyout", made.key, "-out", made.cert)
        return made
