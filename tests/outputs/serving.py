"""A web server with a daemon's pages behind it, and bare clients, for the tests of either."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import socket
import ssl
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

from monitor.access import Web
from monitor.outputs import page
from monitor.outputs.access import Access
from monitor.outputs.metrics import Exposition
from monitor.outputs.web import WebServer
from tests.outputs.specimens import BOARD, FALLBACK, NOW

OPEN = Access(Path("npumon.toml"), Web())
"""Everyone may come in."""


class Service:
    """What a daemon hands to the server, with a health that tests can change."""

    def __init__(self, access: Access = OPEN) -> None:
        self.health = (True, "ok")
        self.page: Callable[[], str] = lambda: page.render({"swift_f0": FALLBACK}, BOARD, NOW, ["swift_f0"])
        self.exposition = Exposition(["swift_f0"], BOARD, "0.1.0", NOW)
        self.exposition.record(FALLBACK)
        self.web = WebServer(
            ("127.0.0.1", 0),
            file="npumon.toml",
            access=access,
            page=lambda: self.page(),
            metrics=self.exposition.text,
            health=lambda: self.health,
        )


def ask(
    service: Service, path: str, method: str = "GET", tls: ssl.SSLContext | None = None, **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    """One request on a connection of its own: the response and its body."""
    port = service.web.port
    if tls is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    else:
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=tls)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def dial(service: Service) -> socket.socket:
    """A bare connection."""
    return socket.create_connection(("127.0.0.1", service.web.port), timeout=10)


def all_of(client: socket.socket) -> bytes:
    """What the server says until it closes, which a reset does too."""
    said = b""
    try:
        while chunk := client.recv(65536):
            said += chunk
    except ConnectionResetError:
        pass
    return said


@contextlib.contextmanager
def serving(table: Web, file: Path = Path("npumon.toml")) -> Iterator[Service]:
    """A service behind this table."""
    service = Service(Access(file, table))
    service.web.start()
    try:
        yield service
    finally:
        service.web.stop()


def hashed(password: str) -> str:
    """What the configuration keeps of a password, at the least cost that it accepts."""
    key = hashlib.scrypt(password.encode(), salt=b"saltsaltsaltsalt", n=2**14, r=8, p=1, dklen=32)
    salt, word = (urlsafe_b64encode(data).decode().rstrip("=") for data in (b"saltsaltsaltsalt", key))
    return f"scrypt:16384:8:1:{salt}:{word}"


def basic(name: str, password: str) -> str:
    """The header of a name and a password."""
    return "Basic " + b64encode(f"{name}:{password}".encode()).decode()
