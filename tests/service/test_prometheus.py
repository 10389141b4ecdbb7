"""The query client where Prometheus, the network or the user is at fault: each in one line that says what mends it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from monitor.errors import NpumonError
from monitor.gate import gate as command
from monitor.service.prometheus import Login, Prometheus, selector
from tests.e2e.running import free_port, npumon

Answer = tuple[int, str, dict[str, str]]
NO_API = "give the URL before /api/v1, with its prefix if it has one"
FULL = {"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1, "1"]}]}}
EMPTY = json.dumps({"status": "success", "data": {"resultType": "vector", "result": []}})


@contextlib.contextmanager
def answering(answer: Callable[[str, dict[str, str]], Answer]) -> Iterator[str]:
    """A server that answers each POST by its path and headers; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = self.rfile.read(int(self.headers["Content-Length"])).decode()
            code, body, headers = answer(self.path, {**self.headers, "form": form})
            with contextlib.suppress(ConnectionError):  # a client that gave up
                self.send_response(code)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def said(url: str, login: Login = Login(), timeout: float = 5.0) -> tuple[int, str]:  # noqa: B008 - it is frozen
    """Exit code and message of a query that fails, the message without the URL that it begins with."""
    with pytest.raises(NpumonError) as raised:
        Prometheus(url, login, timeout).query("up", 0.0)
    message = str(raised.value)
    assert "\n" not in message
    return raised.value.exit_code, message.removeprefix(f"{url}: ")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (
            (400, json.dumps({"status": "error", "error": "1:4: parse error:\nunexpected"}), {}),
            (2, "refused the query (1:4: parse error: unexpected); mend --match or --baseline-match"),
        ),
        (
            (401, "", {}),
            (
                2,
                "not let in (HTTP 401); give --user with NPUMON_PROMETHEUS_PASSWORD or --password-file, or "
                "--bearer-token-file",
            ),
        ),
        (
            (404, "<html>", {}),
            (
                2,
                f"has no query API (HTTP 404 for /api/v1/query); {NO_API}",
            ),
        ),
        (
            (200, "<html>Grafana</html>", {}),
            (
                2,
                f"answered with something else than Prometheus' JSON; {NO_API}",
            ),
        ),
        (
            (200, json.dumps({"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}}]}}), {}),
            (
                2,
                f"answered with something else than Prometheus' JSON; {NO_API}",
            ),
        ),
        (
            (302, "", {"Location": "https://me:secret@prom.example/login?token=1"}),
            (2, "redirects to https://prom.example/login (HTTP 302); give the URL that it leads to"),
        ),
        (
            (503, json.dumps({"status": "error", "error": "query timed out"}), {}),
            (
                3,
                "could not answer (HTTP 503: query timed out); look at its log, choose fewer boards with --match, or "
                "raise --timeout",
            ),
        ),
        (
            (429, "", {}),
            (3, "could not answer (HTTP 429); ask again later, or have its limit raised"),
        ),
        (
            (200, json.dumps({**FULL, "warnings": ['fetch series for {site="b"}:\nno such host']}), {}),
            (
                3,
                'answered from a part of its data only (fetch series for {site="b"}: no such host); see that all of '
                "its stores answer",
            ),
        ),
        (
            (200, json.dumps({**FULL, "isPartial": True}), {}),
            (
                3,
                "answered from a part of its data only (it says that it is partial); see that all of its stores answer",
            ),
        ),
        ((200, "[" * 100_000, {}), (2, f"answered with something else than Prometheus' JSON; {NO_API}")),
        (
            (502, "Bad gateway", {}),
            (3, "could not answer (HTTP 502); look at its log, choose fewer boards with --match, or raise --timeout"),
        ),
    ],
)
def test_a_refusal_says_what_mends_it(answer: Answer, told: tuple[int, str]) -> None:
    """What only other arguments mend ends with 2, what may be otherwise the next time with 3."""
    with answering(lambda path, headers: answer) as url:
        assert said(url) == told


def test_nobody_there() -> None:
    """A port on which nobody listens."""
    told = (3, "connection refused; start Prometheus there, or mend the URL")
    assert said(f"http://127.0.0.1:{free_port()}") == told


def test_a_name_that_is_not_known() -> None:
    """A host that no resolver knows: names below .invalid never are."""
    told = (3, "the host's name is not known here; mend the URL or the resolver")
    assert said("http://prometheus.invalid:9090") == told


def test_a_name_that_can_be_none() -> None:
    """Two dots in a row are refused before any resolver is asked."""
    told = (3, "the host's name is not known here; mend the URL or the resolver")
    assert said("http://prometheus..invalid:9090") == told


def test_what_is_no_number_was_not_measured() -> None:
    """NaN compares with nothing: no bound would be missed. Remarks on a query are no lack of data."""
    series = [{"metric": {"n": value}, "value": [1, value]} for value in ("NaN", "+Inf", "2")]
    answer = {**FULL, "data": {"resultType": "vector", "result": series}, "warnings": ["PromQL info: no counter"]}
    with answering(lambda path, headers: (200, json.dumps(answer), {})) as url:
        assert Prometheus(url, Login(), 5.0).query("up", 0.0) == [({"n": "2"}, 2.0)]


def test_no_proxy_stands_before_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password for a server on this machine does not cross the network to the proxy of the environment."""
    asked: list[str] = []

    def proxied(path: str, headers: dict[str, str]) -> Answer:
        asked.append(path)
        return 200, EMPTY, {}

    with answering(proxied) as other, answering(lambda path, headers: (200, EMPTY, {})) as url:
        monkeypatch.setenv("http_proxy", other)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert Prometheus(url, Login(), 5.0).query("up", 0.0) == []
    assert asked == []


def test_a_password_is_the_bytes_that_were_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where these are not UTF-8."""
    seen: list[str] = []

    def answer(path: str, headers: dict[str, str]) -> Answer:
        seen.append(headers["Authorization"])
        return 200, EMPTY, {}

    monkeypatch.setenv("NPUMON_PROMETHEUS_PASSWORD", os.fsdecode(b"p\xe4ss"))
    with answering(answer) as url:
        Prometheus(url, Login(user="me"), 5.0).query("up", 0.0)
    assert base64.b64decode(seen[0].removeprefix("Basic ")) == b"me:p\xe4ss"


def test_no_answer_in_time() -> None:
    """A server that takes longer than it may."""

    def slow(path: str, headers: dict[str, str]) -> Answer:
        time.sleep(4)
        return 200, EMPTY, {}

    with answering(slow) as url:
        told = (3, "no answer within 0.5 s; raise --timeout, or choose fewer boards with --match")
        assert said(url, timeout=0.5) == told


def test_no_tls_where_it_is_asked_for() -> None:
    """https:// to a server that speaks http."""
    with answering(lambda path, headers: (200, EMPTY, {})) as url:
        code, message = said(url.replace("http:", "https:"))
        assert code == 3
        assert message.startswith("TLS failed (")
        assert message.endswith("); mend the URL, or give --cert and --key if it asks for them")


def test_a_query_is_a_form_below_the_prefix(tmp_path: Path) -> None:
    """POST, form encoded, with the moment and the time it may take; a token from its file's first line."""
    token = tmp_path / "token"
    token.write_text("abc.def\nsecond line\n", encoding="utf-8")
    asked: list[tuple[str, dict[str, str]]] = []

    def answer(path: str, headers: dict[str, str]) -> Answer:
        asked.append((path, headers))
        value = {"metric": {"job": "a"}, "value": [1, "2.5"]}
        return 200, json.dumps({"status": "success", "data": {"resultType": "vector", "result": [value]}}), {}

    with answering(answer) as url:
        found = Prometheus(f"{url}/prom/", Login(token_file=token), 5.0).query('up{a="b c"}', 12.5)
    assert found == [({"job": "a"}, 2.5)]
    ((path, headers),) = asked
    assert path == "/prom/api/v1/query"
    assert headers["Authorization"] == "Bearer abc.def"
    assert urllib.parse.parse_qs(headers["form"]) == {
        "query": ['up{a="b c"}'],
        "time": ["12.500"],
        "timeout": ["5000ms"],
    }


HERE = ("--prometheus", "http://127.0.0.1:9", "--match", 'job="npumon"')


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ("--prometheus", "http://me:secret@127.0.0.1:9", *HERE[2:]),
            "--prometheus: a password in a command line can be read by every user; leave it out and set "
            "NPUMON_PROMETHEUS_PASSWORD, or give --password-file",
        ),
        (
            ("--prometheus", "prom:9090", *HERE[2:]),
            "--prometheus: prom:9090: not a URL of http or https; write it as https://prometheus.example:9090",
        ),
        (
            ("--prometheus", "http://prom.example:9090", "--user", "me", *HERE[2:]),
            "http://prom.example:9090: a password or token would cross the network unencrypted; give a URL with https://",
        ),
        (
            (*HERE, "--user", "me"),
            "--user: there is no password; set NPUMON_PROMETHEUS_PASSWORD, or give --password-file",
        ),
        (
            (*HERE, "--password-file", "absent"),
            "--password-file: whose password it is is not said; give --user too",
        ),
        (
            (*HERE, "--user", "me", "--password-file", "absent"),
            "--password-file: absent: No such file or directory; name a file that this user may read",
        ),
        (
            (*HERE, "--user", "me", "--bearer-token-file", "absent"),
            "--bearer-token-file: a user is given too; give one of both",
        ),
        (
            (*HERE, "--bearer-token-file", "empty"),
            "--bearer-token-file: empty: no secret in its first line; write it there",
        ),
        (
            (*HERE, "--ca-file", "absent"),
            "--ca-file: absent: No such file or directory; name the authority's certificate",
        ),
        ((*HERE, "--ca-file", "empty"), "--ca-file: empty: no certificate in PEM; name the authority's certificate"),
        (
            (*HERE, "--cert", "empty"),
            "--cert: a certificate is of no use without its key; give both --cert and --key",
        ),
        (
            (*HERE, "--cert", "empty", "--key", "empty"),
            "--cert: empty and empty cannot be used together; name a certificate and its key in PEM, without a "
            "passphrase, that this user may read",
        ),
        (
            (*HERE, "--window", "1h", "--soak", "2h"),
            "--soak: 2h does not fit in a window of 1h; raise --window or lower --soak",
        ),
        ((*HERE, "--window", "24"), "--window: expected a duration of a second or more, as 24h or 90s, got '24'"),
        (
            (*HERE[:2], "--match", "staging"),
            '--match: staging: not a selector; write label matchers, as in \'job="npumon", ring="canary"\'',
        ),
        (
            (*HERE, "--slower", "nan"),
            "npumon gate: Invalid value for '--slower': nan is no number; see npumon gate --help",
        ),
        (
            ("--prometheus", "http://prom.example/prém", *HERE[2:]),
            "--prometheus: http://prom.example/prém: not a URL of http or https; write it as "
            "https://prometheus.example:9090",
        ),
        (
            (*HERE, "--bearer-token-file", "cyrillic"),
            "--bearer-token-file: cyrillic: its first line is no token; write one there",
        ),
        (
            (*HERE[:2], "--match", os.fsdecode(b'job="\xff"')),
            '--match: job="\\udcff": not a selector; write label matchers, as in \'job="npumon", ring="canary"\'',
        ),
        (
            (*HERE, "--share-healthy", "0"),
            "npumon gate: Invalid value for '--share-healthy': 0 is not in the range 0<x<=1; see npumon gate --help",
        ),
    ],
)
def test_arguments_that_cannot_be_used(arguments: tuple[str, ...], told: str, tmp_path: Path) -> None:
    """Exit code 2, and one line that names the option and what to write instead; nothing is asked of anybody."""
    (tmp_path / "empty").touch()
    (tmp_path / "cyrillic").write_text("\u0436\n", encoding="utf-8")
    done = npumon("gate", *arguments, cwd=tmp_path, NPUMON_PROMETHEUS_PASSWORD="")
    assert (done.code, done.out, done.err.replace("0.0", "0")) == (2, "", told.replace("0.0", "0") + "\n")


@pytest.mark.parametrize(
    ("text", "matchers"),
    [
        ('job="npumon"', 'job="npumon"'),
        (' { job = "npumon", ring=~"a|b" , } ', 'job = "npumon", ring=~"a|b"'),
        ('job="npumon",\n  ring="a"', 'job="npumon",   ring="a"'),
        ("site!='it\\'s', x!~\"}\"", "site!='it\\'s', x!~\"}\""),
    ],
)
def test_a_selector_is_its_matchers(text: str, matchers: str) -> None:
    """With or without braces, with a comma at its end, and with braces in its values."""
    assert selector("--match", text).strip() == matchers


@pytest.mark.parametrize(
    "text", ["", "{}", "up", 'up{a="b"}', 'a="b"} or up{c="d"', 'a="b" c="d"', "a=b", 'a="b",,c="d"', 'a="b\nc"']
)
def test_nothing_but_matchers_is_a_selector(text: str) -> None:
    """What would be another query once it stands between braces is refused."""
    with pytest.raises(NpumonError, match="not a selector"):
        selector("--match", text)


def test_the_help_fits_a_terminal() -> None:
    """It explains the criteria and the exit codes, and no option is without a word."""
    done = npumon("gate", "--help", COLUMNS="100")
    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= 100
    for word in ("boards", "soak", "healthy", "cohorts", "ops", "Exit codes"):
        assert f"  {word}" in done.out
    assert all(option.help for option in command.params if option.param_type_name == "option")
