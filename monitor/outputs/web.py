"""The HTTP side: ``/``, ``/metrics`` and ``/healthz``, in one thread that no client can hold up.

prometheus_client's own server does the TLS handshake in its accept loop and starts a thread a connection; this one is
a single event loop with bounds on everything that a client controls: connections, header and body sizes, and how long
a request may take to arrive and a response to leave.
"""

from __future__ import annotations

import asyncio
import errno
import gzip
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as EXPOSITION
from prometheus_client.exposition import gzip_accepted
from tornado.http1connection import HTTP1Connection, HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders, HTTPServerRequest, ResponseStartLine
from tornado.iostream import IOStream

from monitor.errors import UsageError
from monitor.outputs.log import logger

CONNECTIONS: Final = 64
"""Most open connections. One more closes the oldest, so that idle ones never lock a scrape out."""

HEADER_BYTES: Final = 16 * 1024
BODY_BYTES: Final = 4 * 1024
IDLE_SECONDS: Final = 120.0
"""How long a connection may stay without a whole request; longer than a usual scrape interval."""

BODY_SECONDS: Final = 5.0
RESPONSE_SECONDS: Final = 10.0
"""How long a client may take to read a response."""

STOP_SECONDS: Final = 5.0


class Response(NamedTuple):
    """What goes back to the client."""

    status: HTTPStatus
    content_type: str
    body: bytes
    encoding: str | None = None


class WebServer:
    """Serves the page, the metrics and the health of one daemon from a thread of its own.

    ``page`` renders the page, ``metrics`` gives the exposition in the text format, ``health`` says whether the
    service is well and a line about it; all three are called from the server's thread. ``file`` is the configuration
    file that ``start`` names when the port cannot be had. Port 0 takes a free one; :attr:`port` tells which.
    """

    def __init__(
        self,
        listen: tuple[str, int],
        *,
        file: Path | str,
        page: Callable[[], str],
        metrics: Callable[[], bytes],
        health: Callable[[], tuple[bool, str]],
    ) -> None:
        self.host, self.port = listen
        self._file = file
        self._page = page
        self._metrics = metrics
        self._health = health
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Bind and begin to answer; raises :class:`UsageError` if the address cannot be had."""
        listener = self._bind()
        self.port = listener.getsockname()[1]
        started = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listener, started)), name="web", daemon=True
        )
        self._thread.start()
        started.wait()

    def stop(self) -> None:
        """Close every connection and end the thread; harmless if nothing runs."""
        if self._thread is None or self._loop is None or self._stopping is None:
            return
        with suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(STOP_SECONDS)
        self._thread = None

    def _bind(self) -> socket.socket:
        try:
            # The first address of a name, as Go's servers do; tornado's bind_sockets leaks sockets when it fails.
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, _, _, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
            listener = socket.create_server(address[:2], family=family, backlog=CONNECTIONS)
            listener.setblocking(False)
            return listener
        except OSError as error:
            name = f"[{self.host}]" if ":" in self.host else self.host
            raise UsageError(f"{self._file}: monitor.listen: {_unbound(name, self.port, error)}") from error

    async def _serve(self, listener: socket.socket, started: threading.Event) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        server = _Server(
            self._answer,
            idle_connection_timeout=IDLE_SECONDS,
            max_header_size=HEADER_BYTES,
            max_body_size=BODY_BYTES,
            max_buffer_size=4 * HEADER_BYTES,
            chunk_size=HEADER_BYTES,
            body_timeout=BODY_SECONDS,
        )
        server.add_sockets([listener])
        started.set()
        await self._stopping.wait()
        server.stop()
        server.close_streams()
        with suppress(TimeoutError):
            await asyncio.wait_for(server.close_all_connections(), 1.0)

    def _answer(self, request: HTTPServerRequest) -> None:
        try:
            response = self._response(request)
        except Exception as error:
            # A defect in one page must not take the others with it.
            logger.error("page_failed", path=request.path, error=f"{type(error).__name__}: {error}")
            response = _line(HTTPStatus.INTERNAL_SERVER_ERROR, "the page could not be made; the log says why")
        _send(request, response)

    def _response(self, request: HTTPServerRequest) -> Response:
        if request.path not in ("/", "/metrics", "/healthz"):
            return _line(HTTPStatus.NOT_FOUND, "not found: there are /, /metrics and /healthz")
        if request.method not in ("GET", "HEAD"):
            return _line(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD")
        if request.path == "/healthz":
            well, text = self._health()
            return _line(HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE, text)
        if request.path == "/metrics":
            return self._exposition(request.headers)
        return Response(HTTPStatus.OK, "text/html; charset=utf-8", self._page().encode("utf-8", "replace"))

    def _exposition(self, headers: HTTPHeaders) -> Response:
        body = self._metrics()
        if gzip_accepted(headers.get("Accept-Encoding", "")):
            # Level 1: the event loop waits for it, and higher levels gain little on text this repetitive.
            return Response(HTTPStatus.OK, EXPOSITION, gzip.compress(body, 1), "gzip")
        return Response(HTTPStatus.OK, EXPOSITION, body)


class _Server(HTTPServer):
    """Tornado's server with a bound on connections."""

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        super().initialize(*args, **kwargs)
        self._streams: dict[IOStream, None] = {}

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        while len(self._streams) >= CONNECTIONS:
            oldest = next(iter(self._streams))
            del self._streams[oldest]
            oldest.close()
        self._streams[stream] = None
        super().handle_stream(stream, address)

    def on_close(self, server_conn: object) -> None:
        super().on_close(server_conn)
        self._streams.pop(cast(HTTP1ServerConnection, server_conn).stream, None)

    def close_streams(self) -> None:
        """Close every connection, whatever its client is waiting for."""
        for stream in tuple(self._streams):
            stream.close()


def _send(request: HTTPServerRequest, response: Response) -> None:
    connection = cast(HTTP1Connection, request.connection)
    headers = HTTPHeaders(
        {
            "Content-Type": response.content_type,
            "Content-Length": str(len(response.body)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
            "X-Content-Type-Options": "nosniff",
        }
    )
    if response.encoding:
        headers["Content-Encoding"] = response.encoding
    if response.status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = "GET, HEAD"
    start_line = ResponseStartLine("HTTP/1.1", response.status.value, response.status.phrase)
    written = connection.write_headers(start_line, headers, b"" if request.method == "HEAD" else response.body)
    connection.finish()
    if not written.done():
        # The client does not read as fast as it asks: it gets a while, and then its connection goes.
        timer = asyncio.get_running_loop().call_later(RESPONSE_SECONDS, connection.stream.close)
        written.add_done_callback(lambda _: timer.cancel())


def _line(status: HTTPStatus, text: str) -> Response:
    return Response(status, "text/plain; charset=utf-8", (text.rstrip("\n") + "\n").encode("utf-8", "replace"))


def _unbound(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{host}:{port} is in use; stop what listens there or choose another port"
    if error.errno == errno.EACCES:
        return f"{host}:{port} needs privileges; choose a port from 1024 on"
    why = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
    return f"{host}:{port} is no address of this machine ({why}); choose another, such as 127.0.0.1"
