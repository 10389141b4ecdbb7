"""The ``[web]`` table: who may reach the pages, and over what.

Apart from the other tables because its mistakes open a door instead of a wrong measurement: what would protect less
than it seems to is refused, and a value that may be a password is never repeated.
"""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from msgspec import Struct

from monitor import passwords
from monitor.document import quote, show
from monitor.spot import Spot, read_mapping

HASHED = "the line that npumon hash-password prints"


class Web(Struct, frozen=True):
    """Who may reach the pages. ``allow`` holds networks, none for all; ``users`` maps names to lines of scrypt."""

    tls_cert: Path | None = None
    tls_key: Path | None = None
    client_ca: Path | None = None
    allow: tuple[str, ...] = ()
    users: dict[str, str] = {}


def web(spot: Spot, values: dict[str, Any]) -> Web:
    """The table of these ``values``, which fit each other. Raises :class:`UsageError`."""
    for one, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        if one in values and other not in values:
            example = "/etc/npumon/tls/board." + ("key" if other == "tls_key" else "crt")
            raise spot.below(one).mistake(f"does nothing without {other}; write {other} = {quote(example)} too")
    if "client_ca" in values and "tls_cert" not in values:
        mend = "write tls_cert and tls_key too"
        raise spot.below("client_ca").mistake(f"only TLS can ask a client for its certificate; {mend}")
    return Web(**values)


def check(spot: Spot, listen: tuple[str, int], table: Web) -> None:
    """Refuse passwords that would cross a network as they are: each scrape would show them to whoever listens."""
    if table.users and not table.tls_cert and not _is_loopback(listen[0]):
        mend = "write tls_cert and tls_key in [web], or listen on 127.0.0.1 behind a proxy that has TLS"
        there = spot.below("web").below("users")
        raise there.mistake(f"passwords would reach {listen[0]} unencrypted; {mend}")


def networks(spot: Spot) -> tuple[str, ...]:
    """``allow``: addresses and networks, in their canonical form."""
    expected = "an array of addresses and networks"
    if not isinstance(spot.value, list):
        raise spot.wrong(expected, f"[{show(spot.value)}]" if _network(spot.value) else None)
    if not spot.value:
        raise spot.mistake(f"expected {expected}, got an empty one; remove it to let everyone in")
    return tuple(_one_network(spot.below(index)) for index in range(len(spot.value)))


def users(spot: Spot) -> dict[str, str]:
    """``[web.users]``: names, and what is kept of their passwords."""
    # No value is shown on the way: it may well be the password itself.
    if not isinstance(spot.value, dict):
        raise spot.mistake(f"expected a table of names; write [web.users] and below it {HASHED}")
    if not spot.value:
        raise spot.mistake(f"expected at least one user, got none; write {HASHED}, or remove the table to ask no one")
    for name, value in spot.value.items():
        if isinstance(value, dict):
            raise spot.below(name).mistake("expected a hash, got a table; put a name with dots in quotes")
    found: dict[str, str] = read_mapping(_hashed, '"scrypt:…"')(spot)
    for name in found:
        if ":" in name or not name.isprintable():
            raise spot.below(name).mistake("no name for basic authentication, which ends it at a colon; rename it")
    return found


def _hashed(spot: Spot) -> str:
    try:
        passwords.parse(spot.value if isinstance(spot.value, str) else "")
    except ValueError as error:
        raise spot.mistake(f"no hash of a password as npumon makes it; write {HASHED}") from error
    return str(spot.value)


def _one_network(spot: Spot) -> str:
    if found := _network(spot.value):
        return found
    if isinstance(spot.value, str) and (wide := _network(spot.value, strict=False)):
        mend = f"write {quote(wide)} or {quote(spot.value.partition('/')[0])}"
        raise spot.mistake(f"{show(spot.value)} is neither an address nor a network; {mend}")
    name = isinstance(spot.value, str) and re.fullmatch(r"[A-Za-z][\w.-]*", spot.value)
    why = "names are not looked up; " if name else ""
    raise spot.mistake(f'expected an address or a network, got {show(spot.value)}; {why}write "10.0.0.0/8" or "::1"')


def _network(value: Any, strict: bool = True) -> str | None:
    if not isinstance(value, str) or "%" in value:
        return None
    try:
        return str(ip_network(value, strict))
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
