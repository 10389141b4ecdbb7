"""The HTTP side: ``/``, ``/metrics`` and ``/healthz``, in one thread that no client can hold up.

prometheus_client's own server does the TLS handshake in its accept loop and starts a thread a connection; this one is
a single event loop with bounds on everything that a client controls: connections, header and body sizes, and how long
a request may take to arrive and a response to leave.
"""

from __future__ import annotations

import asyncio
import errno
import gzip
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple, cast

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as EXPOSITION
from prometheus_client.exposition import gzip_accepted
from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders, HTTPServerRequest, ResponseStartLine

from monitor.errors import PassingError, UsageError
from monitor.outputs import connections
from monitor.outputs.access import Access
from monitor.outputs.connections import Refusals, Server
from monitor.outputs.log import logger

CERTIFICATES_SECONDS: Final = 5.0
"""Between two looks at the files of the certificates."""

STOP_SECONDS: Final = 5.0

CHALLENGE: Final = 'Basic realm="npumon", charset="UTF-8"'


class Response(NamedTuple):
    """What goes back to the client."""

    status: HTTPStatus
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class WebServer:
    """Serves the page, the metrics and the health of one daemon from a thread of its own.

    ``page`` renders the page, ``metrics`` gives the exposition in the text format, ``health`` says whether the
    service is well and a line about it; all three are called from the server's thread. ``file`` is the configuration
    file that ``start`` names when the port cannot be had. Port 0 takes a free one; :attr:`port` tells which.
    ``access`` is who may come in and over what; :meth:`adopt` changes it under way.
    """

    def __init__(
        self,
        listen: tuple[str, int],
        *,
        file: Path | str,
        access: Access,
        page: Callable[[], str],
        metrics: Callable[[], bytes],
        health: Callable[[], tuple[bool, str]],
    ) -> None:
        self.host, self.port = listen
        self.access = access
        self._file = file
        self._page = page
        self._metrics = metrics
        self._health = health
        self._refusals = Refusals()
        self._answering: set[asyncio.Task[None]] = set()
        self._server: Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Bind and begin to answer; raises :class:`PassingError` if the address cannot be had."""
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

    @property
    def address(self) -> str:
        """Where the pages are, as a URL without its path."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.access.certificates else ''}://{host}:{self.port}"

    def adopt(self, access: Access) -> None:
        """Put ``access`` in force before this returns: for new connections, and by ending those that are there."""
        self.access = access
        adopted = threading.Event()

        def take() -> None:
            if self._server is not None:
                self._server.ssl_options = access.tls
                self._server.close_streams(finish=True)
            adopted.set()

        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(take)
                adopted.wait(STOP_SECONDS)

    def _bind(self) -> socket.socket:
        try:
            # The first address of a name, as Go's servers do; tornado's bind_sockets leaks sockets when it fails.
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, _, _, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
            listener = socket.create_server(address[:2], family=family, backlog=connections.CONNECTIONS)
            listener.setblocking(False)
            # Connections have it from their listener. What the kernel has taken counts as read, see _send.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, connections.SEND_BYTES)
            return listener
        except OSError as error:
            name = f"[{self.host}]" if ":" in self.host else self.host
            raise PassingError(f"{self._file}: monitor.listen: {_unbound(name, self.port, error)}") from error

    async def _serve(self, listener: socket.socket, started: threading.Event) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        _hush()
        server = self._server = connections.server(
            self._take, lambda client: self.access.permits(client), self._refusals, self.access.tls
        )
        server.add_sockets([listener])
        renewal = asyncio.create_task(self._renew(server))
        started.set()
        await self._stopping.wait()
        renewal.cancel()
        server.stop()
        server.close_streams()
        with suppress(TimeoutError):
            await asyncio.wait_for(server.close_all_connections(), 1.0)

    async def _renew(self, server: Server) -> None:
        """Take up certificates that have changed; connections that are there keep theirs."""
        while True:
            await asyncio.sleep(CERTIFICATES_SECONDS)
            if (certificates := self.access.certificates) is None:
                continue
            try:
                renewed = await asyncio.to_thread(certificates.renew)
            except UsageError as error:
                logger.error("certificate_not_reloaded", error=str(error))
                continue
            if renewed and certificates is self.access.certificates:
                server.ssl_options = certificates.context
                logger.info("certificate_reloaded")

    def _take(self, request: HTTPServerRequest) -> None:
        task = asyncio.create_task(self._answer(request))
        self._answering.add(task)  # the loop itself keeps no hold of it
        task.add_done_callback(self._answering.discard)

    async def _answer(self, request: HTTPServerRequest) -> None:
        try:
            response = self._astray(request) or await self._unwelcome(request) or self._response(request)
        except Exception as error:
            # A defect in one page must not take the others with it.
            logger.error("page_failed", path=request.path, error=f"{type(error).__name__}: {error}")
            response = _line(HTTPStatus.INTERNAL_SERVER_ERROR, "the page could not be made; the log says why")
        _send(request, response)

    def _astray(self, request: HTTPServerRequest) -> Response | None:
        if request.path not in ("/", "/metrics", "/healthz"):
            return _line(HTTPStatus.NOT_FOUND, "not found: there are /, /metrics and /healthz")
        if request.method not in ("GET", "HEAD"):
            return _line(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD", ("Allow", "GET, HEAD"))
        return None

    async def _unwelcome(self, request: HTTPServerRequest) -> Response | None:
        """The refusal of a request that lacks a right password, if it takes one."""
        if request.path == "/healthz":
            return None  # it tells one line and no more, and a health check is no place for a password
        authorization, client = request.headers.get("Authorization"), str(request.remote_ip)
        answer = await self.access.ask(authorization, client)
        if answer.welcome:
            if self._server is not None:
                self._server.welcome(cast(HTTP1Connection, request.connection).stream)
            return None
        if authorization:
            self._refusals.tell("wrong password" if not answer.wait else "too many wrong passwords", client)
        if answer.wait:
            text = f"too many wrong passwords; try again in {answer.wait} s"
            return _line(HTTPStatus.TOO_MANY_REQUESTS, text, ("Retry-After", str(answer.wait)))
        return _line(HTTPStatus.UNAUTHORIZED, "a name and its password are needed", ("WWW-Authenticate", CHALLENGE))

    def _response(self, request: HTTPServerRequest) -> Response:
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
            return Response(HTTPStatus.OK, EXPOSITION, gzip.compress(body, 1), (("Content-Encoding", "gzip"),))
        return Response(HTTPStatus.OK, EXPOSITION, body)


def _send(request: HTTPServerRequest, response: Response) -> None:
    connection = cast(HTTP1Connection, request.connection)
    stream = connection.stream
    if stream.closed():
        return  # the client did not wait for its password to be verified
    headers = HTTPHeaders(
        {
            "Content-Type": response.content_type,
            "Content-Length": str(len(response.body)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
            "X-Content-Type-Options": "nosniff",
        }
    )
    headers.update(response.headers)
    start_line = ResponseStartLine("HTTP/1.1", response.status.value, response.status.phrase)
    written = connection.write_headers(start_line, headers, b"" if request.method == "HEAD" else response.body)
    connection.finish()
    if not written.done():
        # The client does not read as fast as it asks: it gets a while, and then its connection goes.
        timer = asyncio.get_running_loop().call_later(connections.RESPONSE_SECONDS, stream.close)
        written.add_done_callback(lambda _: timer.cancel())


def _line(status: HTTPStatus, text: str, *headers: tuple[str, str]) -> Response:
    body = (text.rstrip("\n") + "\n").encode("utf-8", "replace")
    return Response(status, "text/plain; charset=utf-8", body, headers)


def _unbound(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{host}:{port} is in use; stop what listens there or choose another port"
    if error.errno == errno.EACCES:
        return f"{host}:{port} needs privileges; choose a port from 1024 on"
    why = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
    return f"{host}:{port} is no address of this machine ({why}); choose another, such as 127.0.0.1"


class _Defects(logging.Handler):
    """Where tornado and asyncio report what nobody caught: a line of the log, instead of a traceback on stderr.

    One a minute: should a client ever find how to cause them, it does not fill the log.
    """

    _last = -connections.REFUSAL_SECONDS

    def emit(self, record: logging.LogRecord) -> None:
        if time.monotonic() - self._last < connections.REFUSAL_SECONDS:
            return
        self._last = time.monotonic()
        error = record.exc_info[1] if record.exc_info else None
        logger.error("web_failed", error=f"{type(error).__name__}: {error}" if error else record.getMessage()[:300])


def _hush() -> None:
    """Show none of tornado's warnings: each failed handshake is one, and strangers make as many as they like."""
    for name in ("tornado", "asyncio"):
        library = logging.getLogger(name)
        if not any(isinstance(handler, _Defects) for handler in library.handlers):
            library.addHandler(_Defects(logging.ERROR))
            library.propagate = False
