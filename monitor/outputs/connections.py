"""Tornado's HTTP server with bounds on what strangers can hold: who may connect, how many, and for how long.

A connection is a stranger's until its client was let in to a page. Strangers have seconds, TLS handshake included, and
go first when there are too many, so that no crowd of them costs a scraper its connection.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import Any, Final, cast

from tornado.http1connection import HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.iostream import IOStream

from monitor.outputs.log import logger

CONNECTIONS: Final = 64
"""Most open connections. One more closes another: the oldest stranger's, or else the one that is idle for longest."""

STRANGER_SECONDS: Final = 10.0
"""How long a connection may stay that nobody was let in by."""

IDLE_SECONDS: Final = 120.0
"""How long a connection may stay without a whole request; longer than a usual scrape interval."""

RESPONSE_SECONDS: Final = 10.0
"""How long a client may take to read a response."""

SEND_BYTES: Final = 128 * 1024
"""How much of what a client does not read the kernel keeps, which doubles it; left alone it keeps megabytes of each."""

BODY_SECONDS: Final = 5.0
HEADER_BYTES: Final = 8 * 1024
RECORD_BYTES: Final = 16 * 1024
"""How much is read at once: a whole TLS record, since what stays of one is not seen by select()."""

REFUSAL_SECONDS: Final = 60.0


class Refusals:
    """Tells who was turned away: one line a minute for each reason, however many there are."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[float, int]] = {}

    def tell(self, reason: str, client: str) -> None:
        """Log that ``client`` was refused for ``reason``, of which there are a few; or count it for the next line."""
        now = time.monotonic()
        last, untold = self._told.get(reason, (-REFUSAL_SECONDS, 0))
        if now - last < REFUSAL_SECONDS:
            self._told[reason] = last, untold + 1
            return
        self._told[reason] = now, 0
        logger.warning("client_refused", client=client, reason=reason, more=untold)


class Server(HTTPServer):
    """Serves clients whose address it ``permits``, and tells ``refusals`` of the others; see :func:`server`."""

    permits: Callable[[str], bool]
    refusals: Refusals

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        """Tornado's way of construction."""
        super().initialize(*args, **kwargs)
        self._strangers: dict[IOStream, asyncio.TimerHandle] = {}
        self._guests: dict[IOStream, None] = {}

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        """Take a connection, whose TLS handshake is yet to come."""
        if not self.permits(address[0]):
            self.refusals.tell("address not in web.allow", address[0])
            stream.close()
            return
        while len(self._strangers) + len(self._guests) >= CONNECTIONS:
            oldest = next(iter(self._strangers or self._guests))
            self._forget(oldest)
            oldest.close()
        self._strangers[stream] = asyncio.get_running_loop().call_later(STRANGER_SECONDS, stream.close)
        super().handle_stream(stream, address)

    def on_close(self, server_conn: object) -> None:
        """Let go of a connection that has ended, and tell if its handshake failed."""
        super().on_close(server_conn)
        connection = cast(HTTP1ServerConnection, server_conn)
        stream = connection.stream
        if stream in self._strangers and isinstance(stream.error, ssl.SSLError):
            self.refusals.tell(f"TLS: {stream.error.reason or 'ended'}", cast(Any, connection.context).remote_ip)
        self._forget(stream)

    def welcome(self, stream: IOStream) -> None:
        """The client of this connection was let in: it is no stranger any more."""
        if stream not in self._strangers and stream not in self._guests:
            return  # gone meanwhile
        self._forget(stream)
        self._guests[stream] = None

    def close_streams(self, *, finish: bool = False) -> None:
        """Close every connection, whatever its client is waiting for; if ``finish``, after the response it reads."""
        for stream in (*self._strangers, *self._guests):
            if finish and stream.writing():
                asyncio.get_running_loop().call_later(RESPONSE_SECONDS, stream.close)
            else:
                stream.close()

    def _forget(self, stream: IOStream) -> None:
        self._guests.pop(stream, None)
        if timer := self._strangers.pop(stream, None):
            timer.cancel()


def server(
    answer: Callable[[HTTPServerRequest], None],
    permits: Callable[[str], bool],
    refusals: Refusals,
    tls: ssl.SSLContext | None,
) -> Server:
    """A server that has its sockets yet to come; ``answer`` gets whole requests."""
    made = Server(
        answer,
        ssl_options=tls,
        idle_connection_timeout=IDLE_SECONDS,
        max_header_size=HEADER_BYTES,
        max_body_size=0,  # nothing is sent here
        max_buffer_size=2 * RECORD_BYTES,
        chunk_size=RECORD_BYTES,
        body_timeout=BODY_SECONDS,
    )
    made.permits, made.refusals = permits, refusals
    return made
