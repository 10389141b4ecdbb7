"""What a network does to the real daemon: clients that say nothing, too little, too much or the wrong thing."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Authority, Pair
from tests.e2e.running import Running, npumon, running, wait_until, write_config
from tests.grafana.prometheus_server import Prometheus
from tests.outputs.serving import all_of, basic, hashed

ABSENT: dict[str, Any] = {"path": "absent.onnx"}
"""A model whose check fails at once, for what does not need a probe."""
REQUEST = b"GET /metrics HTTP/1.1\r\nHost: board\r\n\r\n"
CROWD = 100
STAY = 10.0
"""Seconds that a stranger's connection may stay, and that a response may take."""
SLACK = 2.0
"""Seconds more for a busy machine."""


def tables(pair: Pair, *more: str) -> list[str]:
    """The [web] table for this pair, with further lines."""
    return ["[web]", f'tls_cert = "{pair.cert}"', f'tls_key = "{pair.key}"', *more]


def place(address: str) -> tuple[str, int]:
    """Host and port of a URL."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    return host, int(port)


def scrape(address: str, tls: ssl.SSLContext | None = None, authorization: str = "", source: str = "") -> int:
    """The status of one scrape on a connection of its own; at most 2 seconds, or it fails."""
    host, port = place(address)
    if tls is None:
        connection = http.client.HTTPConnection(host, port, timeout=2, source_address=(source, 0))
    else:
        connection = http.client.HTTPSConnection(host, port, timeout=2, context=tls)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics", headers={"Authorization": authorization} if authorization else {})
        response = connection.getresponse()
        response.read()
        return response.status


class Crowd:
    """Bad clients of one daemon, over TLS if there is a context for it; closing it closes them."""

    def __init__(self, address: str, tls: ssl.SSLContext | None) -> None:
        self._place, self._tls = place(address), tls
        self._open: list[socket.socket] = []
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def plain(self) -> socket.socket:
        """A bare connection."""
        made = socket.create_connection(self._place, timeout=2 * STAY)
        self._open.append(made)
        return made

    def connect(self) -> socket.socket:
        """A connection that is ready for a request."""
        made = self.plain()
        if self._tls is not None:
            made = self._tls.wrap_socket(made, server_hostname=self._place[0])
            self._open.append(made)
        return made

    def say(self, words: bytes) -> bytes:
        """What the daemon answers to this until it closes."""
        client = self.connect()
        with contextlib.suppress(OSError):  # refused before all of it was sent
            client.sendall(words)
        return all_of(client)

    def slowly(self, step: Callable[[socket.socket], object], prepare: bytes = b"") -> int:
        """A client that does one ``step`` a second, in a thread of its own; its port."""
        client = self.connect()
        client.sendall(prepare)
        port: int = client.getsockname()[1]

        def live() -> None:
            with contextlib.suppress(OSError):  # sent away
                while not self._over.wait(1.0):
                    step(client)

        self._threads.append(threading.Thread(target=live))
        self._threads[-1].start()
        return port

    def close(self) -> None:
        """Send everyone home."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        for client in self._open:
            client.close()


def held(daemon: Running) -> tuple[int, float]:
    """Open descriptors, and resident memory in MiB."""
    process = Path(f"/proc/{daemon.process.pid}")
    found = re.search(r"VmRSS:\s+(\d+) kB", (process / "status").read_text())
    assert found is not None
    return len(list((process / "fd").iterdir())), int(found[1]) / 1024


def at_rest(daemon: Running) -> tuple[int, float]:
    """:func:`held`, once there have been as many descriptors for a second."""
    counts: list[int] = []

    def steady() -> bool:
        counts.append(held(daemon)[0])
        return len(counts) > 10 and len({*counts[-11:]}) == 1

    wait_until(steady, "as many descriptors for a second")
    return held(daemon)


def connected(daemon: Running) -> set[int]:
    """The ports of the clients whose connections the daemon holds open, whatever they have yet to read (proc(5))."""
    process = Path(f"/proc/{daemon.process.pid}")
    sockets = set()
    for descriptor in (process / "fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            sockets.add(str(descriptor.readlink()))
    rows = [row.split() for row in (process / "net" / "tcp").read_text().splitlines()[1:]]
    return {int(row[2].rpartition(":")[2], 16) for row in rows if f"socket:[{row[9]}]" in sockets}


def said(words: bytes) -> bool:
    """Whether this is a refusal: at most one answer, and that is 400."""
    return words in (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n")


@contextlib.contextmanager
def daemon_of(tmp_path: Path, secure: bool) -> Iterator[tuple[Running, ssl.SSLContext | None]]:
    """A daemon, and what its scrapers need: nothing, or a certificate."""
    if not secure:
        with running("run", "-c", write_config(tmp_path, {"m": ABSENT}, "1h")) as daemon:
            yield daemon, None
        return
    authority = Authority(tmp_path)
    web = tables(authority.issue("board"), f'client_ca = "{authority.pair.cert}"')
    with running("run", "-c", write_config(tmp_path, {"m": ABSENT}, "1h", head=web)) as daemon:
        yield daemon, authority.client(authority.issue("prometheus"))


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_bad_clients_of_every_kind(tmp_path: Path, secure: bool) -> None:
    """A scrape is answered in time through all of them; then they are gone, with their memory and descriptors."""
    with daemon_of(tmp_path, secure) as (daemon, tls):
        for _ in range(5):
            assert scrape(daemon.address, tls) == 200
        descriptors, memory = at_rest(daemon)
        crowd = Crowd(daemon.address, tls)
        try:
            start = time.monotonic()
            for number in range(CROWD):
                crowd.plain()
                if number % 2:
                    half = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" if secure else b"GET /metr"
                    crowd.plain().sendall(half)
            assert said(crowd.say(b"GET /metrics HTTP/1.1\r\nX: " + b"y" * 10_000 + b"\r\n\r\n"))
            assert said(crowd.say(b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"))
            assert said(
                crowd.say(b"GET /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            )
            assert crowd.say(REQUEST + b"\x00\xff nonsense\r\n\r\n" * 1000).startswith(b"HTTP/1.1 200 OK")
            assert time.monotonic() - start < STAY / 2
            slow = {
                crowd.slowly(lambda client: client.recv(1), REQUEST * 500): "reader",
                crowd.slowly(lambda client: client.sendall(b"G")): "writer",
            }
            came, left = time.monotonic(), dict[str, float]()
            wait_until(lambda: slow.keys() <= connected(daemon), "both are there", SLACK)
            while len(left) < len(slow) and time.monotonic() - came < STAY + SLACK:
                assert scrape(daemon.address, tls) == 200
                assert held(daemon)[0] <= descriptors + 64 + 2
                for port in slow.keys() - connected(daemon):
                    left.setdefault(slow[port], time.monotonic() - came)
                time.sleep(0.5)
            assert {name: after > STAY / 2 for name, after in left.items()} == {"reader": True, "writer": True}
            wait_until(lambda: held(daemon)[0] <= descriptors, "strangers are sent away", 1)
        finally:
            crowd.close()
        wait_until(lambda: held(daemon)[0] <= descriptors, "nothing is left of them", 5)
        assert held(daemon)[1] < memory + 8
        assert scrape(daemon.address, tls) == 200
        assert daemon.stop() == 0
        assert daemon.err == ""


def test_a_wrong_client_certificate(tmp_path: Path) -> None:
    """A hundred times, none, a stranger's or plain HTTP: no answer, two lines a kind at most, and nothing is held."""
    with daemon_of(tmp_path, True) as (daemon, tls):
        assert scrape(daemon.address, tls) == 200
        descriptors, memory = held(daemon)
        other = Authority(tmp_path, "other")
        (tmp_path / "both.crt").write_bytes(
            b"".join((tmp_path / f"{name}.crt").read_bytes() for name in ("authority", "other"))
        )
        stranger = other.client(other.issue("stranger"))
        stranger.load_verify_locations(tmp_path / "both.crt")
        nobody = ssl.create_default_context(cafile=str(tmp_path / "both.crt"))
        for context in (stranger, nobody, None):
            for _ in range(33):
                with pytest.raises((OSError, http.client.HTTPException)):
                    scrape(daemon.address, context)
        assert scrape(daemon.address, tls) == 200
        wait_until(lambda: held(daemon)[0] <= descriptors, "nothing is left of them", 5)
        assert held(daemon)[1] < memory + 8
        refused = [line["reason"] for line in daemon.told("client_refused")]
        assert {"TLS: CERTIFICATE_VERIFY_FAILED", "TLS: PEER_DID_NOT_RETURN_A_CERTIFICATE", "TLS: HTTP_REQUEST"} <= {
            *refused
        }
        assert len(refused) <= 8
        assert daemon.stop() == 0
        assert daemon.err == ""


def processor_seconds(stat: Path) -> float:
    """What a process or a thread has taken of all processors so far (utime and stime of proc(5))."""
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_wrong_passwords_do_not_load_the_board(tmp_path: Path) -> None:
    """Guessed as fast as one can, they take 2 % of a core for a client and 5 % for all; who is known is served."""
    web = ["[web.users]", f'prometheus = "{hashed("secret")}"']
    with running("run", "-c", write_config(tmp_path, {"m": ABSENT}, "1h", head=web)) as daemon:
        daemon.wait("check_failed")
        tasks, stat = (Path(f"/proc/{daemon.process.pid}/{name}") for name in ("task", "stat"))
        before = {*tasks.iterdir()}
        right, came = basic("prometheus", "secret"), time.monotonic()
        assert scrape(daemon.address, None, right) == 200
        (worker,) = {*tasks.iterdir()} - before  # passwords have a thread of their own, from the first one on
        one = processor_seconds(worker / "stat")
        descriptors, memory = held(daemon)
        guesses = itertools.count()

        def guess(hosts: list[str]) -> set[int]:
            return {scrape(daemon.address, None, basic("prometheus", str(next(guesses))), host) for host in hosts}

        for clients, share, burst in ((1, 0.02, 2.0), (8, 0.05, 4.0)):
            hosts = [f"127.0.0.{number + 2}" for number in range(clients)]
            while guess(hosts) != {429}:  # what may be spent at once is being spent
                assert processor_seconds(worker / "stat") <= burst + share * (time.monotonic() - came) + 3 * one
            start, spent, whole = time.monotonic(), processor_seconds(worker / "stat"), processor_seconds(stat)
            assert spent > burst / 2
            first = next(guesses)
            while (passed := time.monotonic() - start) < 3:
                guess(hosts)
            assert processor_seconds(worker / "stat") - spent <= share * passed + 2 * one
            # To turn one away takes what any answer takes, a fraction of what it takes to compute one.
            assert processor_seconds(stat) - whole < (next(guesses) - first) * one / 4
            assert scrape(daemon.address, None, right) == 200
        assert scrape(daemon.address) == 401
        assert daemon.get("/healthz") == (200, "ok\n")
        assert held(daemon)[0] <= descriptors + 1
        assert held(daemon)[1] < memory + 8
        assert len(daemon.told("client_refused")) <= 2
        assert len({*tasks.iterdir()} - before) == 1


def test_another_web_table_is_taken_whole_or_not_at_all(tmp_path: Path) -> None:
    """By SIGHUP: open, then TLS and a password, then a key that does not fit, which leaves all as it was, and back."""
    authority = Authority(tmp_path)
    board, client, right = authority.issue("board"), authority.client(), basic("a", "b")
    config = write_config(tmp_path, {"m": ABSENT}, "1h")
    listen = config.read_text().split('"')[1]
    users = ["[web.users]", f'a = "{hashed("b")}"']
    with running("run", "-c", config) as daemon:
        assert scrape(daemon.address) == 200
        write_config(tmp_path, {"m": ABSENT}, "1h", head=[*tables(board), *users], listen=listen)
        told = daemon.reload()
        assert (told["address"], told["unchanged"]) == (f"https://{listen}", ["m"])
        assert scrape(f"https://{listen}", client) == 401
        assert scrape(f"https://{listen}", client, right) == 200
        with pytest.raises((OSError, http.client.HTTPException)):
            scrape(daemon.address)
        wrong = Pair(board.cert, authority.pair.key)
        write_config(tmp_path, {"other": ABSENT}, "1h", head=tables(wrong), listen=listen)
        line = daemon.reload("config_not_reloaded")
        number = config.read_text().split("\n").index(f'tls_key = "{wrong.key}"') + 1
        sentence = f"{wrong.key} is not the key of {wrong.cert}; name the two that belong together"
        assert line["error"] == f"{config}:{number}: web.tls_key: {sentence}"
        assert npumon("check-config", config) == (2, "", line["error"] + "\n")
        assert scrape(f"https://{listen}", client, right) == 200
        assert scrape(f"https://{listen}", client) == 401
        write_config(tmp_path, {"m": ABSENT}, "1h", head=["[web]", 'allow = ["192.0.2.0/24"]'], listen=listen)
        daemon.reload()
        with pytest.raises((OSError, http.client.HTTPException)):
            scrape(daemon.address)
        write_config(tmp_path, {"m": ABSENT}, "1h", listen=listen)
        daemon.reload()
        assert scrape(daemon.address) == 200


def test_a_key_that_does_not_fit_stops_the_start(tmp_path: Path) -> None:
    """It is one line, and exit code 2, which systemd does not restart."""
    authority = Authority(tmp_path)
    board = Pair(authority.issue("board").cert, authority.pair.key)
    config = write_config(tmp_path, {"m": ABSENT}, head=tables(board))
    done = npumon("run", "-c", config)
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(r".*:\d+: web\.tls_key: .* is not the key of .*; name the two that belong together\n", done.err)


def test_prometheus_scrapes_through_tls_and_a_password(tmp_path: Path) -> None:
    """A real Prometheus, as the examples have it: with the authority and the password in files, over a renewal."""
    authority = Authority(tmp_path)
    board = authority.issue("board")
    config = write_config(
        tmp_path, {"m": ABSENT}, "1h", head=[*tables(board), "[web.users]", f'prometheus = "{hashed("x y")}"']
    )
    (tmp_path / "password").write_text("x y")
    with running("run", "-c", config) as daemon:
        targets = [{"targets": [daemon.address.removeprefix("https://")]}]
        prometheus = Prometheus(tmp_path, targets, interval="1s")
        written = tmp_path / "prometheus.yml"
        secured = {
            "scheme": "https",
            "tls_config": {"ca_file": str(authority.pair.cert)},
            "basic_auth": {"username": "prometheus", "password_file": str(tmp_path / "password")},
        }
        configuration = json.loads(written.read_text())
        configuration["scrape_configs"][0].update(secured)
        written.write_text(json.dumps(configuration))
        with prometheus:
            wait_until(lambda: prometheus.now("up") != [] and prometheus.now("up")[0][1] == 1, "a scrape", 30)
            assert prometheus.now("npumon_models")[0][1] == 1
            authority.issue("board")
            daemon.wait("certificate_reloaded")
            time.sleep(2.5)
            assert prometheus.now("min_over_time(up[1m])")[0][1] == 1
        assert not daemon.told("client_refused")
