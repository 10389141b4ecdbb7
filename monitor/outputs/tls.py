"""Certificate and key of the web server: loaded whole or refused in one line, and loaded again when their files change.

Certificates are short-lived now and renewed by programs that know nothing of npumon; a monitor that must be restarted
for that is one that is silent once a month.
"""

from __future__ import annotations

import os
import re
import ssl
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

from monitor.access import Web
from monitor.document import Document
from monitor.errors import UsageError

FILE_BYTES: Final = 2**20
"""No certificate, key or bundle of authorities is larger."""

_CERTIFICATES = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")
_KEY = re.compile(rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----")

Stamp = tuple[tuple[int, ...] | None, ...]


class Certificates:
    """The TLS context of ``web``, which has a ``tls_cert``; ``file`` is the configuration that mistakes are told of.

    Making it raises :class:`UsageError`. One thread at a time.
    """

    def __init__(self, file: Path, web: Web) -> None:
        self._file, self._web = file, web
        self._tried = self._seen = self._stamp()
        self.context = self._load()

    def renew(self) -> bool:
        """Whether :attr:`context` is a new one, because the files hold something else than when they were last read.

        A pair is two files, so that a change counts once they are the same at two looks. Raises :class:`UsageError`,
        once a change, if they cannot be used; the context stays.
        """
        before, self._seen = self._seen, self._stamp()
        if self._seen != before or self._seen == self._tried:
            return False
        self._tried = self._seen
        self.context = self._load()
        return True

    def _stamp(self) -> Stamp:
        return tuple(map(_stamp, filter(None, (self._web.tls_cert, self._web.tls_key, self._web.client_ca))))

    def _load(self) -> ssl.SSLContext:
        web = self._web
        assert web.tls_cert is not None
        assert web.tls_key is not None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION  # each would cost the board a key exchange for a few bytes
        self._authorities("tls_cert", web.tls_cert)
        if not _KEY.search(self._read("tls_key", web.tls_key)):
            self._refuse("tls_key", f"{web.tls_key} holds no private key in PEM; name one that does")
        try:
            context.load_cert_chain(web.tls_cert, web.tls_key, password=_no_passphrase)
        except _Encrypted:
            mend = f"store it without one: openssl pkey -in {web.tls_key} -out FILE"
            self._refuse("tls_key", f"{web.tls_key} has a passphrase that nobody is there to type; {mend}")
        except (ssl.SSLError, OSError) as error:
            self._unfit(web, getattr(error, "reason", None))
        if web.client_ca:
            context.load_verify_locations(cadata=self._authorities("client_ca", web.client_ca))
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _unfit(self, web: Web, reason: str | None) -> NoReturn:
        if reason == "KEY_VALUES_MISMATCH":
            self._refuse(
                "tls_key", f"{web.tls_key} is not the key of {web.tls_cert}; name the two that belong together"
            )
        if reason:
            why = reason.replace("_", " ").lower()
            self._refuse("tls_cert", f"OpenSSL refuses {web.tls_cert} ({why}); have a new one issued")
        self._refuse("tls_key", f"{web.tls_key} holds no private key that OpenSSL can read; name one that does")

    def _authorities(self, key: str, path: Path) -> str:
        """The certificates of a file, all of which OpenSSL can read."""
        found = b"\n".join(_CERTIFICATES.findall(self._read(key, path))).decode("ascii", "replace")
        try:
            # A context of its own: it shows what can be read, and nothing here is trusted for it.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=found)
        except (ssl.SSLError, ValueError):
            self._refuse(key, f"{path} holds no certificate in PEM that OpenSSL can read; name one that does")
        return found

    def _read(self, key: str, path: Path) -> bytes:
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe waits for who writes to it
                self._refuse(key, f"{path} is no file; name a PEM file")
            with path.open("rb") as stream:
                return stream.read(FILE_BYTES)
        except PermissionError:
            mend = "give the file and the service one group (SupplementaryGroups= in a drop-in of the unit)"
            self._refuse(key, f"{path}: Permission denied; {mend}")
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            self._refuse(key, f"{path}: {reason}; name a PEM file that the service's user may read")

    def _refuse(self, key: str, sentence: str) -> NoReturn:
        mistake = UsageError(f"{self._file}: web.{key}: {sentence}")
        with suppress(UsageError):  # the configuration file itself may be gone by now, and with it the line
            mistake = Document(self._file).mistake(("web", key), sentence)
        raise mistake


class _Encrypted(Exception):
    """OpenSSL asks for a passphrase."""


def _no_passphrase() -> NoReturn:
    # Without it OpenSSL would ask at the terminal, if there is one.
    raise _Encrypted


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
