"""Basic authentication that costs a scrape nothing and that wrong passwords cannot make expensive.

scrypt takes tenths of a second of a core, on purpose. So it runs in one thread beside the event loop, once for each
client and password; what is right or wrong is then remembered, by a keyed digest. And it runs for a small share of the
time only: a stranger who guesses is told to wait, which bounds the guesses as well as the heat.
"""

from __future__ import annotations

import asyncio
import ctypes
import hmac
import os
import time
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ipaddress import ip_address, ip_network
from math import ceil
from typing import Final, NamedTuple, TypeVar

from monitor.passwords import Hash, decoy, parse

REMEMBERED: Final = 64
"""Most right, and most wrong, credentials that are known without computing."""

WAITING: Final = 4
"""Most passwords that are being computed or wait for it."""

CLIENT_SHARE, ALL_SHARE = 0.02, 0.05
"""How much of one core the passwords of one client, and of all, may take."""

CLIENT_BURST, ALL_BURST = 2.0, 4.0
"""Seconds of computing that are there at once, so that a typing error or two are not punished."""

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

_M_MMAP_THRESHOLD: Final = -3
_WORKER: Final = ThreadPoolExecutor(1, "password")


class Answer(NamedTuple):
    """Whether the client may come in; if not, after how many seconds it is worth asking again (0: with others)."""

    welcome: bool
    wait: int = 0


class Budget:
    """Seconds of computing: ``share`` of the time that passes, and at most ``burst`` saved up."""

    def __init__(self, share: float, burst: float, now: float) -> None:
        self._share, self._burst = share, burst
        self._left, self._then = burst, now

    def wait(self, now: float) -> float:
        """Seconds until something may be spent; 0 if that is now."""
        self._left = min(self._burst, self._left + (now - self._then) * self._share)
        self._then = now
        return max(0.0, -self._left / self._share)

    def spend(self, seconds: float) -> None:
        """Take away what a computation took, into debt if need be."""
        self._left -= seconds


class Doorman:
    """Knows the ``users``, by name and line of scrypt. At least one; used from one event loop at a time."""

    def __init__(self, users: Mapping[str, str]) -> None:
        _return_memory()
        self._users = {name.encode(): parse(line) for name, line in users.items()}
        self._decoy = decoy(max(self._users.values(), key=lambda known: known.n * known.p))
        self._key = os.urandom(32)
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self._wrong: OrderedDict[bytes, None] = OrderedDict()
        self._running: dict[bytes, asyncio.Task[bool]] = {}
        self._all = Budget(ALL_SHARE, ALL_BURST, time.monotonic())
        self._clients: OrderedDict[str, Budget] = OrderedDict()

    async def ask(self, authorization: str | None, client: str) -> Answer:
        """Whether the header ``Authorization`` of a request from the address ``client`` holds a name and its password.

        The digest that remembers them is one of the client too: only who has shown a password may be quick about it,
        and guesses from elsewhere stay slow even when they are right.
        """
        credentials = _credentials(authorization)
        if credentials is None:
            return Answer(False)
        digest = hmac.digest(self._key, client.encode() + b"\0" + credentials, "sha256")
        for known in (self._right, self._wrong):
            if digest in known:
                known.move_to_end(digest)
                return Answer(known is self._right)
        if (task := self._running.get(digest)) is None:
            budget, now = self._budget(client), time.monotonic()
            wait = max(budget.wait(now), self._all.wait(now))
            if wait or len(self._running) >= WAITING:
                return Answer(False, max(1, ceil(wait)))
            task = self._running[digest] = asyncio.create_task(self._compute(digest, credentials, budget))
        return Answer(await asyncio.shield(task))

    async def _compute(self, digest: bytes, credentials: bytes, budget: Budget) -> bool:
        name, _, password = credentials.partition(b":")
        try:
            # A name that is not known takes as long as one that is.
            user = self._users.get(name, self._decoy)
            right, seconds = await asyncio.get_running_loop().run_in_executor(_WORKER, _matches, user, password)
        finally:
            del self._running[digest]
        for one in (budget, self._all):
            one.spend(seconds)
        _remember(self._right if right else self._wrong, digest, None)
        return right

    def _budget(self, client: str) -> Budget:
        """The budget of this address; of its whole /64 for IPv6, where addresses cost nothing."""
        address = ip_address(client)
        key = client if address.version == 4 else str(ip_network((int(address), 64), strict=False))
        budget = self._clients.pop(key, None) or Budget(CLIENT_SHARE, CLIENT_BURST, time.monotonic())
        _remember(self._clients, key, budget)
        return budget


def _return_memory() -> None:
    """Have glibc give scrypt's 16 MiB back to the system each time.

    Left alone it does so once, takes that for a waste, and keeps them from the second time on (mallopt(3)).
    """
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**20)


def _matches(user: Hash, password: bytes) -> tuple[bool, float]:
    start = time.thread_time()
    return user.matches(password), time.thread_time() - start


def _remember(known: OrderedDict[_Key, _Value], key: _Key, value: _Value) -> None:
    known[key] = value
    if len(known) > REMEMBERED:
        known.popitem(last=False)


def _credentials(authorization: str | None) -> bytes | None:
    """``name:password`` of a header (RFC 7617), or nothing if it is none."""
    scheme, _, word = (authorization or "").partition(" ")
    try:
        decoded = b64decode(word.strip(), validate=True) if scheme.lower() == "basic" else b""
    except ValueError:
        return None
    return decoded if b":" in decoded else None
