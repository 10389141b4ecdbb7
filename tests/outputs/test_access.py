"""Who may reach the pages, over real sockets and real TLS: certificates, passwords, addresses."""

from __future__ import annotations

import http.client
import json
import os
import re
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from monitor.access import Web
from monitor.errors import UsageError
from monitor.outputs import log, web
from monitor.outputs.access import Access
from tests.certificates import Authority, Pair, openssl
from tests.outputs.serving import Service, all_of, ask, basic, dial, hashed, serving


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority whose files are in ``tmp_path``."""
    return Authority(tmp_path)


# --------------------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("allow", "inside", "outside"),
    [
        (("10.0.0.0/8",), ["10.1.2.3", "::ffff:10.1.2.3"], ["11.0.0.1", "::1", "127.0.0.1", "::ffff:11.0.0.1"]),
        (("192.0.2.7/32", "::1/128"), ["192.0.2.7", "::1"], ["192.0.2.8", "::2", "fe80::1%eth0"]),
        (("fe80::/10",), ["fe80::1%eth0"], ["10.0.0.1"]),
        ((), ["10.0.0.1", "2001:db8::1"], []),
    ],
)
def test_only_listed_addresses_are_permitted(allow: tuple[str, ...], inside: list[str], outside: list[str]) -> None:
    """Exactly those listed, IPv4 also when it comes through an IPv6 socket; without a list, all."""
    access = Access(Path("npumon.toml"), Web(allow=allow))
    assert [address for address in inside + outside if access.permits(address)] == inside


def test_a_client_that_is_not_allowed_gets_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Its connection ends before a word, and the log says so once a minute, however often it tries."""
    log.configure(sys.stdout)
    with serving(Web(allow=("10.0.0.0/8",))) as service:
        for _ in range(10):
            with dial(service) as client:
                assert all_of(client) == b""
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (line["event"], line["client"], line["more"]) == ("client_refused", "127.0.0.1", 0)
    assert line["reason"] == "address not in web.allow"


# --------------------------------------------------------------------------------------------------------------- TLS


def test_pages_over_tls(authority: Authority) -> None:
    """A client that trusts the authority gets the pages by TLS 1.2 and 1.3, and nothing by anything older."""
    board = authority.issue("board")
    with serving(Web(tls_cert=board.cert, tls_key=board.key)) as service:
        assert service.web.address == f"https://127.0.0.1:{service.web.port}"
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            client = authority.client()
            client.minimum_version = client.maximum_version = version
            assert ask(service, "/metrics", tls=client)[0].status == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(service, "/metrics", tls=ssl.create_default_context())
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            ask(service, "/metrics")


def test_only_clients_with_a_certificate(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without one, or with one of another authority, there is no answer to anything; the log says why, once."""
    log.configure(sys.stdout)
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    board, client, stranger = authority.issue("board"), authority.issue("client"), other.issue("stranger")
    with serving(Web(tls_cert=board.cert, tls_key=board.key, client_ca=authority.pair.cert)) as service:
        for path in ("/", "/metrics", "/healthz"):
            assert ask(service, path, tls=authority.client(client))[0].status == 200
            for pair in (None, stranger):
                with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
                    ask(service, path, tls=authority.client(pair))
    out, err = capfd.readouterr()
    reasons = [json.loads(line)["reason"] for line in out.splitlines()]
    assert sorted(reasons) == ["TLS: CERTIFICATE_VERIFY_FAILED", "TLS: PEER_DID_NOT_RETURN_A_CERTIFICATE"]
    assert err == ""


def serial(service: Service, client: ssl.SSLContext) -> str:
    """Which certificate a new connection is shown."""
    with dial(service) as plain, client.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
        shown = connection.getpeercert()
        assert shown is not None
        return str(shown["serialNumber"])


def test_certificates_are_renewed_under_way(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """New files are shown to new connections, old connections go on; a bad pair changes nothing and is told once."""
    log.configure(sys.stdout)
    monkeypatch.setattr(web, "CERTIFICATES_SECONDS", 0.1)
    board, client = authority.issue("board"), authority.client()
    with serving(Web(tls_cert=board.cert, tls_key=board.key)) as service:
        kept = http.client.HTTPSConnection("127.0.0.1", service.web.port, timeout=10, context=client)
        kept.request("GET", "/metrics")
        kept.getresponse().read()
        before, socket_then = serial(service, client), kept.sock
        authority.issue("board")
        wait_for(lambda: serial(service, client) != before)
        after = serial(service, client)
        good = board.key.read_bytes()
        board.key.write_text("nothing")
        time.sleep(0.6)
        assert serial(service, client) == after
        board.key.write_bytes(good)
        board.cert.rename(board.cert.with_suffix(".old"))
        time.sleep(0.6)
        assert serial(service, client) == after
        authority.issue("board")
        wait_for(lambda: serial(service, client) != after)
        kept.request("GET", "/metrics")
        assert kept.getresponse().status == 200
        assert kept.sock is socket_then
        kept.close()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = [line["event"] for line in lines]
    assert told == ["certificate_reloaded", *["certificate_not_reloaded"] * 2, "certificate_reloaded"]
    assert lines[1]["error"] == (
        f"npumon.toml: web.tls_key: {board.key} holds no private key in PEM; name one that does"
    )
    assert lines[2]["error"].startswith(f"npumon.toml: web.tls_cert: {board.cert}: No such file or directory; ")


def test_another_access_is_in_force_at_once(authority: Authority) -> None:
    """From plain HTTP to TLS with a password and back: connections that were there end, new ones obey."""
    board = authority.issue("board")
    closed = Access(Path("n.toml"), Web(tls_cert=board.cert, tls_key=board.key, users={"a": hashed("b")}))
    with serving(Web()) as service:
        opened = service.web.access
        with dial(service) as old:
            old.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert old.recv(1000).endswith(b"ok\n")
            service.web.adopt(closed)
            assert all_of(old) == b""
        assert ask(service, "/", tls=authority.client())[0].status == 401
        assert ask(service, "/", tls=authority.client(), Authorization=basic("a", "b"))[0].status == 200
        service.web.adopt(opened)
        assert ask(service, "/")[0].status == 200


def wait_for(condition: Callable[[], bool]) -> None:
    """Poll for some seconds."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def missing(pair: Pair) -> tuple[str, str]:
    """No certificate."""
    pair.cert.unlink()
    return "tls_cert", f"{pair.cert}: No such file or directory; name a PEM file that the service's user may read"


def folder(pair: Pair) -> tuple[str, str]:
    """A folder in place of the key."""
    pair.key.unlink()
    pair.key.mkdir()
    return "tls_key", f"{pair.key} is no file; name a PEM file"


def pipe(pair: Pair) -> tuple[str, str]:
    """A pipe that nobody writes to."""
    pair.cert.unlink()
    os.mkfifo(pair.cert)
    return "tls_cert", f"{pair.cert} is no file; name a PEM file"


def swapped(pair: Pair) -> tuple[str, str]:
    """The two keys, one for the other."""
    pair.cert.write_bytes(pair.key.read_bytes())
    return "tls_cert", f"{pair.cert} holds no certificate in PEM that OpenSSL can read; name one that does"


def broken(pair: Pair) -> tuple[str, str]:
    """A certificate whose middle is gone."""
    pair.cert.write_text(re.sub(r"\n.{64}\n", "\n", pair.cert.read_text(), count=1))
    return "tls_cert", f"{pair.cert} holds no certificate in PEM that OpenSSL can read; name one that does"


def no_key(pair: Pair) -> tuple[str, str]:
    """The certificate in place of the key."""
    pair.key.write_bytes(pair.cert.read_bytes())
    return "tls_key", f"{pair.key} holds no private key in PEM; name one that does"


def broken_key(pair: Pair) -> tuple[str, str]:
    """A key that begins well."""
    pair.key.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    return "tls_key", f"{pair.key} holds no private key that OpenSSL can read; name one that does"


def others_key(pair: Pair) -> tuple[str, str]:
    """The key of another certificate."""
    pair.key.write_bytes((pair.key.parent / "authority.key").read_bytes())
    return "tls_key", f"{pair.key} is not the key of {pair.cert}; name the two that belong together"


def encrypted(pair: Pair) -> tuple[str, str]:
    """A key with a passphrase."""
    locked = pair.key.with_suffix(".locked")
    openssl("pkey", "-in", pair.key, "-aes256", "-passout", "pass:x", "-out", locked)
    locked.replace(pair.key)
    mend = f"store it without one: openssl pkey -in {pair.key} -out FILE"
    return "tls_key", f"{pair.key} has a passphrase that nobody is there to type; {mend}"


def weak(pair: Pair) -> tuple[str, str]:
    """A key that OpenSSL holds for too short."""
    made = ("-keyout", pair.key, "-out", pair.cert)
    openssl("req", "-x509", "-newkey", "rsa:1024", "-nodes", "-subj", "/CN=weak", *made)
    return "tls_cert", f"OpenSSL refuses {pair.cert} (ee key too small); have a new one issued"


@pytest.mark.parametrize(
    "spoil", [missing, folder, pipe, swapped, broken, no_key, broken_key, others_key, encrypted, weak]
)
def test_files_that_cannot_be_used(
    authority: Authority, tmp_path: Path, spoil: Callable[[Pair], tuple[str, str]]
) -> None:
    """Each mistake about certificate and key is one line that names the configuration's line, key and mend."""
    pair = authority.issue("board")
    key, sentence = spoil(pair)
    file = tmp_path / "npumon.toml"
    file.write_text(f'[web]\ntls_cert = "{pair.cert}"\ntls_key = "{pair.key}"\n')
    with pytest.raises(UsageError) as caught:
        Access(file, Web(tls_cert=pair.cert, tls_key=pair.key))
    assert str(caught.value) == f"{file}:{2 if key == 'tls_cert' else 3}: web.{key}: {sentence}"


def test_authorities_that_cannot_be_used(authority: Authority, tmp_path: Path) -> None:
    """A file of authorities without any would let no one in: it is refused."""
    pair = authority.issue("board")
    empty = tmp_path / "clients.crt"
    empty.write_text("")
    with pytest.raises(UsageError) as caught:
        Access(tmp_path / "gone.toml", Web(tls_cert=pair.cert, tls_key=pair.key, client_ca=empty))
    sentence = f"{empty} holds no certificate in PEM that OpenSSL can read; name one that does"
    assert str(caught.value) == f"{tmp_path / 'gone.toml'}: web.client_ca: {sentence}"
