"""Passwords as the configuration keeps them: one line of scrypt (RFC 7914) that can be read by all and used by none.

Its own module because a command makes these lines, the configuration checks them and the web server verifies against
them; all three must mean the same. scrypt is what the standard library has that is costly to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final, NamedTuple

COST: Final = (2**14, 8, 5)
"""scrypt's n, r and p: of those that OWASP holds for equal (Password Storage Cheat Sheet, 2025), the one of 16 MiB."""

LONGEST: Final = 1024
"""Bytes of a password; with its name it has to fit a request's header."""

_SALT, _KEY = 16, 32  # bytes
# Up to 32 MiB and three times the cost: a line from elsewhere must not be able to stop the board.
_N, _R, _P = (2**14, 2**15), 8, range(1, 17)
_LINE = re.compile(r"scrypt:(\d{1,9}):(\d{1,9}):(\d{1,9}):([\w-]{22}):([\w-]{43})", re.ASCII)


class Hash(NamedTuple):
    """One password, hashed."""

    n: int
    r: int
    p: int
    salt: bytes
    key: bytes

    def matches(self, password: bytes) -> bool:
        """Whether this is the password. Takes tenths of a second; how long does not depend on the answer."""
        return hmac.compare_digest(_scrypt(password, self.salt, self.n, self.r, self.p), self.key)


def line(password: bytes) -> str:
    """What the configuration keeps of a password: ``scrypt:n:r:p:salt:key``, the last two in URL-safe base64."""
    salt = os.urandom(_SALT)
    words = (urlsafe_b64encode(data).decode().rstrip("=") for data in (salt, _scrypt(password, salt, *COST)))
    return ":".join(("scrypt", *map(str, COST), *words))


def parse(text: str) -> Hash:
    """The hash that :func:`line` wrote. Raises :class:`ValueError` if it is none, or too cheap or too costly."""
    if not (found := _LINE.fullmatch(text)):
        raise ValueError("no line of scrypt")
    n, r, p = map(int, found.groups()[:3])
    if n not in _N or r != _R or p not in _P:
        raise ValueError("scrypt parameters out of range")
    salt, key = (urlsafe_b64decode(word + "=" * (-len(word) % 4)) for word in found.groups()[3:])
    return Hash(n, r, p, salt, key)


def decoy(like: Hash) -> Hash:
    """A hash of no password, as costly as ``like``: what names that are not known are held against."""
    return like._replace(salt=os.urandom(_SALT), key=os.urandom(_KEY))


def _scrypt(password: bytes, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=128 * r * (n + p + 2) + 2**20, dklen=_KEY)
