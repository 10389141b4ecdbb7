"""The web server over real sockets: routes, formats, and clients that are slow, silent, greedy or talk nonsense."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import sys
import time
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from monitor.errors import UsageError
from monitor.outputs import connections, log
from monitor.outputs.web import WebServer
from tests.outputs.serving import OPEN, Service, all_of, ask, dial
from tests.outputs.specimens import WORST_STANDING, worst_case


@pytest.fixture
def service() -> Iterator[Service]:
    """A service that answers on a free port of 127.0.0.1."""
    made = Service()
    made.web.start()
    try:
        yield made
    finally:
        made.web.stop()


def test_page(service: Service) -> None:
    """``/`` is the status page, as HTML that no cache keeps and that may run nothing."""
    response, body = ask(service, "/")
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Content-Security-Policy"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert "swift_f0" in body.decode()


def test_metrics_as_text(service: Service) -> None:
    """Without a wish ``/metrics`` is the Prometheus text format 0.0.4."""
    response, body = ask(service, "/metrics")
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert "npumon_npu_flops_ratio" in {family.name for family in parse_text(body.decode())}


def test_metrics_are_text_for_everyone(service: Service) -> None:
    """A scraper that would rather have OpenMetrics gets the text format too, and is told so."""
    response, _ = ask(service, "/metrics", Accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.1")
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")


def test_metrics_compressed(service: Service) -> None:
    """A scraper that accepts gzip gets the same text, compressed."""
    _, plain = ask(service, "/metrics")
    response, packed = ask(service, "/metrics", Accept_Encoding="gzip")
    assert response.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed) == plain
    assert len(packed) < len(plain) / 3


def test_health(service: Service) -> None:
    """``/healthz`` is 200 with a line while the service is well, and 503 with its line when it is stuck."""
    response, body = ask(service, "/healthz")
    assert (response.status, body) == (200, b"ok\n")
    service.health = (False, "the schedule has not moved for 90 s")
    response, body = ask(service, "/healthz")
    assert (response.status, body) == (503, b"the schedule has not moved for 90 s\n")


@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz"])
def test_head(service: Service, path: str) -> None:
    """HEAD is GET without the body, on a connection that goes on to serve."""
    connection = http.client.HTTPConnection("127.0.0.1", service.web.port, timeout=10)
    connection.request("HEAD", path)
    head = connection.getresponse()
    assert (head.status, head.read()) == (200, b"")
    connection.request("GET", path)
    got = connection.getresponse()
    assert len(got.read()) == int(head.headers["Content-Length"])
    connection.close()


@pytest.mark.parametrize(
    "path", ["/metrics/", "/metric", "/index.html", "/../etc/passwd", "/%2e%2e/", "//", "/favicon.ico"]
)
def test_nothing_else(service: Service, path: str) -> None:
    """Any other path is 404 with one line that names the three there are."""
    response, body = ask(service, path)
    assert (response.status, body) == (404, b"not found: there are /, /metrics and /healthz\n")


def test_a_query_changes_nothing(service: Service) -> None:
    """A query is ignored, as scrapers with parameters expect."""
    assert ask(service, "/healthz?verbose=1")[1] == b"ok\n"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_only_reading(service: Service, method: str) -> None:
    """Nothing can be changed through the web server."""
    response, body = ask(service, "/metrics", method)
    assert (response.status, response.headers["Allow"], body) == (405, "GET, HEAD", b"only GET and HEAD\n")


def test_a_page_that_fails_takes_nothing_with_it(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    """A defect in the page is a 500 without a traceback and a line in the log; metrics go on."""

    def fail() -> str:
        raise ZeroDivisionError("a defect")

    log.configure(sys.stdout)
    service.page = fail
    response, body = ask(service, "/")
    assert (response.status, body) == (500, b"the page could not be made; the log says why\n")
    out, err = capsys.readouterr()
    assert json.loads(out)["error"] == "ZeroDivisionError: a defect"
    assert err == ""
    assert ask(service, "/metrics")[0].status == 200


def test_silent_clients_do_not_block_a_scrape(service: Service) -> None:
    """Clients that connect and say nothing, or half a request, hold no one up."""
    clients = [dial(service) for _ in range(10)]
    for client in clients[:5]:
        client.sendall(b"GET /metrics HT")
    start = time.monotonic()
    assert ask(service, "/metrics")[0].status == 200
    assert time.monotonic() - start < 1
    for client in clients:
        client.close()


def test_more_connections_than_allowed_close_the_oldest(service: Service) -> None:
    """However many idle clients there are, a new one is served; the oldest lose their connection."""
    clients = [dial(service) for _ in range(connections.CONNECTIONS + 20)]
    assert ask(service, "/metrics")[0].status == 200
    assert clients[0].recv(1) == b""
    clients[-1].sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert clients[-1].recv(100).startswith(b"HTTP/1.1 200 OK")
    for client in clients:
        client.close()


def test_a_client_that_does_not_read_is_dropped(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A response that its client does not take is given up after a while; meanwhile others are served."""
    monkeypatch.setattr(connections, "RESPONSE_SECONDS", 0.5)
    service.page = lambda: "x" * 20_000_000
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(10)
        client.connect(("127.0.0.1", service.web.port))
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.2)
        assert ask(service, "/healthz")[0].status == 200
        time.sleep(0.6)
        assert len(all_of(client)) < 20_000_000


def test_a_slow_request_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's request that arrives a byte at a time is given up after seconds, a scraper's after minutes."""
    monkeypatch.setattr(connections, "STRANGER_SECONDS", 0.4)
    monkeypatch.setattr(connections, "IDLE_SECONDS", 1.5)
    service = Service()
    service.web.start()
    try:
        start = time.monotonic()
        with dial(service) as stranger, dial(service) as scraper:
            scraper.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            assert scraper.recv(100).startswith(b"HTTP/1.1 200")
            stranger.sendall(b"GET / HTTP/1.1\r\n")
            assert stranger.recv(1) == b""
            assert 0.3 < time.monotonic() - start < 1.2
            all_of(scraper)
            assert time.monotonic() - start > 1.3
    finally:
        service.web.stop()


def test_strangers_do_not_cost_a_scraper_its_connection(service: Service) -> None:
    """Whoever was let in to a page keeps the connection, however many strangers come after."""
    with dial(service) as scraper:
        scraper.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert scraper.recv(100_000).startswith(b"HTTP/1.1 200")
        strangers = [dial(service) for _ in range(connections.CONNECTIONS + 20)]
        assert strangers[0].recv(1) == b""
        scraper.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert all_of(scraper).endswith(b"\r\n\r\nok\n")
        for stranger in strangers:
            stranger.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\xff\xfe\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"y" * 10_000 + b"\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 2_000 + b"\r\n",
        b"GET /" + b"a" * 200_000,
        b"a" * 200_000,
    ],
    ids=lambda garbage: repr(garbage[:40] + garbage[-12:]),
)
def test_nonsense_is_refused(service: Service, garbage: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    """Nonsense, oversized headers and bodies end their connection, with 400 at most, and disturb no one else."""
    with dial(service) as client:
        try:
            client.sendall(garbage)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # refused before all of it was sent
        said = all_of(client)
    assert said == b"" or said.startswith(b"HTTP/1.1 400 ")
    assert ask(service, "/metrics")[0].status == 200
    assert "Traceback" not in capfd.readouterr().err


def test_requests_one_after_the_other_on_one_connection(service: Service) -> None:
    """A scraper's connection is kept open, also for requests sent ahead."""
    with dial(service) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 3 + b"GET /healthz HTTP/1.0\r\n\r\n")
        assert all_of(client).count(b"\r\n\r\nok\n") == 4


def test_port_in_use(service: Service) -> None:
    """A taken port is one line that names file, key and mend."""
    second = WebServer(
        ("127.0.0.1", service.web.port),
        file="/etc/npumon.toml",
        access=OPEN,
        page=str,
        metrics=service.exposition.text,
        health=lambda: (True, "ok"),
    )
    with pytest.raises(UsageError) as caught:
        second.start()
    assert str(caught.value) == (
        f"/etc/npumon.toml: monitor.listen: 127.0.0.1:{service.web.port} is in use; "
        "stop what listens there or choose another port"
    )


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("203.0.113.7", "203.0.113.7:0 is no address of this machine (Cannot assign requested address); "),
        ("no-such-host.invalid", "no-such-host.invalid:0 is no address of this machine ("),
        ("2001:db8::7", "[2001:db8::7]:0 is no address of this machine ("),
    ],
)
def test_an_address_of_another_machine(service: Service, host: str, shown: str) -> None:
    """An address that this machine does not have is one line too."""
    elsewhere = WebServer(
        (host, 0),
        file="n.toml",
        access=OPEN,
        page=str,
        metrics=service.exposition.text,
        health=lambda: (True, "ok"),
    )
    with pytest.raises(UsageError) as caught:
        elsewhere.start()
    assert str(caught.value).startswith(f"n.toml: monitor.listen: {shown}")
    assert str(caught.value).endswith("; choose another, such as 127.0.0.1")


def test_stop_frees_the_port_at_once() -> None:
    """Stopping closes open connections within seconds, frees the port, and may be repeated."""
    service = Service()
    service.web.start()
    client = dial(service)
    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    with client:
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        start = time.monotonic()
        service.web.stop()
        assert time.monotonic() - start < 3
        assert all_of(client) == b""
    service.web.stop()
    with pytest.raises(ConnectionRefusedError):
        dial(service)
    service.web.start()
    assert ask(service, "/healthz")[0].status == 200
    service.web.stop()


def test_twenty_models_in_the_worst_case_can_be_scraped() -> None:
    """A board with 20 models that need all their series is scraped whole."""
    service = Service()
    for number in range(20):
        results, events = worst_case(f"model{number}")
        for result in results:
            service.exposition.record(result, WORST_STANDING)
        for event in events:
            service.exposition.count_event(event)
    service.web.start()
    try:
        _, body = ask(service, "/metrics")
    finally:
        service.web.stop()
    samples = [sample for family in parse_text(body.decode()) for sample in family.samples]
    assert len({sample.labels.get("model") for sample in samples} - {None}) == 21
