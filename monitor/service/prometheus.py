"""Asks a Prometheus, or anything that speaks its query API. Every refusal is one line that says what mends it.

The standard library's HTTP is enough: a handful of POSTs one after the other, and urllib knows proxies, TLS and
prefixes. Secrets come from files and the environment, and appear in no message.
"""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException
from ipaddress import ip_address
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

from msgspec import Struct

from monitor.errors import EXIT_UNMEASURED, NpumonError, UsageError

PASSWORD_VARIABLE: Final = "NPUMON_PROMETHEUS_PASSWORD"
LONGEST_ANSWER: Final = 2**28
"""Bytes of an answer: a fleet of 10,000 boards with 10 models stays below it."""

Series = tuple[dict[str, str], float]

_QUOTED: Final = r'"(?:\\.|[^"\\\n\ud800-\udfff])*"' + "|" + r"'(?:\\.|[^'\\\n\ud800-\udfff])*'"
_MATCHER: Final = re.compile(rf"\s*[a-zA-Z_]\w*\s*(?:=~|!~|!=|=)\s*(?:{_QUOTED})\s*")


class QueryError(NpumonError):
    """Prometheus gave no answer, which may be otherwise the next time."""

    exit_code: ClassVar[int] = EXIT_UNMEASURED


class Login(Struct, frozen=True):
    """How to be let in: files and a name, never a secret itself."""

    user: str | None = None
    password_file: Path | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    cert: Path | None = None
    key: Path | None = None


class _Address(NamedTuple):
    base: str
    user: str | None
    tls: bool
    here: bool
    """Whether it is this machine."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST becomes a GET without its query, and takes the password to wherever it is sent."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class Prometheus:
    """A server at ``url``, which may have a path prefix. Raises :class:`UsageError` if it or ``login`` is of no use.

    ``timeout`` is in seconds, for each query.
    """

    def __init__(self, url: str, login: Login, timeout: float) -> None:
        address = _address(url)
        self.url, self._timeout = address.base, timeout
        self._headers = _authorization(address, login)
        context = _tls(login)
        # A proxy of the environment is for what is beyond this machine, and would get the password in clear text.
        proxies = [urllib.request.ProxyHandler({})] if address.here else []
        self._opener = urllib.request.build_opener(_NoRedirect, urllib.request.HTTPSHandler(context=context), *proxies)

    def now(self) -> float:
        """The server's own time, in UTC seconds, which is that of its samples. Raises as :meth:`query`."""
        answer = self.query("vector(time())", None)
        if len(answer) != 1:
            raise self._no_api("does not tell the time")
        return answer[0][1]

    def query(self, expression: str, at: float | None) -> list[Series]:
        """The labels and value of each series of an instant query at ``at``, UTC seconds, or at this moment.

        What is no finite number is left out: nobody measured it. Raises :class:`QueryError`, or :class:`UsageError`
        where only another argument would help.
        """
        form = {"query": expression, "timeout": f"{round(self._timeout * 1000)}ms"}
        if at is not None:
            form["time"] = f"{at:.3f}"
        request = urllib.request.Request(
            f"{self.url}/api/v1/query",
            urllib.parse.urlencode(form).encode(),
            {**self._headers, "Accept": "application/json"},
        )
        try:
            # Prometheus gives up first, and says why.
            with self._opener.open(request, timeout=self._timeout + 2) as answer:
                body = answer.read(LONGEST_ANSWER + 1)
        except urllib.error.HTTPError as refused:
            raise self._refused(refused) from refused
        except (OSError, HTTPException, UnicodeError) as error:
            raise self._unreachable(error) from error
        if len(body) > LONGEST_ANSWER:
            raise QueryError(f"{self.url}: the answer is larger than 256 MiB; choose fewer boards with --match")
        return self._series(body)

    def _series(self, body: bytes) -> list[Series]:
        try:
            document = json.loads(body)
            if document["status"] != "success" or document["data"]["resultType"] != "vector":
                raise ValueError
            series = [(one["metric"], float(one["value"][1])) for one in document["data"]["result"]]
            missing = _missing(document)
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise self._no_api("answered with something else than Prometheus' JSON") from error
        if missing:
            mend = "see that all of its stores answer"
            raise QueryError(f"{self.url}: answered from a part of its data only ({missing}); {mend}")
        return [one for one in series if isfinite(one[1])]

    def _no_api(self, what: str) -> UsageError:
        return UsageError(f"{self.url}: {what}; give the URL before /api/v1, with its prefix if it has one")

    def _refused(self, refused: urllib.error.HTTPError) -> NpumonError:
        code = refused.code
        with refused:
            said = _error_in(refused)
        if said and code == 400:
            return UsageError(f"{self.url}: refused the query ({said}); mend --match or --baseline-match")
        if code in (401, 403):
            mend = f"give --user with {PASSWORD_VARIABLE} or --password-file, or --bearer-token-file"
            mend = "look at the name and the password, or at the token" if self._headers else mend
            return UsageError(f"{self.url}: not let in (HTTP {code}); {mend}")
        if 300 <= code < 400:
            there = _clean(refused.headers.get("Location", "elsewhere"))
            return UsageError(f"{self.url}: redirects to {there} (HTTP {code}); give the URL that it leads to")
        if code >= 500 or code in (408, 422, 429):
            reason = f": {said}" if said else ""
            mend = "look at its log, choose fewer boards with --match, or raise --timeout"
            if code == 429:
                mend = "ask again later, or have its limit raised"
            return QueryError(f"{self.url}: could not answer (HTTP {code}{reason}); {mend}")
        return self._no_api(f"has no query API (HTTP {code} for /api/v1/query)")

    def _unreachable(self, error: OSError | HTTPException | UnicodeError) -> NpumonError:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            why = reason.verify_message.rstrip(".")
            return UsageError(f"{self.url}: its certificate is not trusted ({why}); give its authority with --ca-file")
        if isinstance(reason, TimeoutError):
            mend = "raise --timeout, or choose fewer boards with --match"
            return QueryError(f"{self.url}: no answer within {self._timeout:g} s; {mend}")
        if isinstance(reason, ConnectionRefusedError):
            return QueryError(f"{self.url}: connection refused; start Prometheus there, or mend the URL")
        if isinstance(reason, socket.gaierror | UnicodeError):  # the latter where it cannot be a name
            return QueryError(f"{self.url}: the host's name is not known here; mend the URL or the resolver")
        if isinstance(reason, ssl.SSLError):
            why = (reason.reason or "no reason given").replace("_", " ").lower()
            return QueryError(
                f"{self.url}: TLS failed ({why}); mend the URL, or give --cert and --key if it asks for them"
            )
        why = _line(getattr(reason, "strerror", None) or str(reason) or type(reason).__name__)
        return QueryError(f"{self.url}: no answer ({why}); see whether Prometheus is reachable from here")


def selector(option: str, text: str) -> str:
    """The matchers of ``text``, with or without braces around them. Raises :class:`UsageError` if it has none."""
    inner = text.strip()
    if inner.startswith("{") and inner.endswith("}"):
        inner = inner[1:-1]
    inner = inner.strip().removesuffix(",")
    at = 0
    while found := _MATCHER.match(inner, at):
        at = found.end()
        if at == len(inner):
            return inner.replace("\n", " ")  # between matchers, where alone it can be
        if inner[at] != ",":
            break
        at += 1
    shown = " ".join(text.split())[:100]
    raise UsageError(
        f"""{option}: {shown}: not a selector; write label matchers, as in 'job="npumon", ring="canary"'"""
    )


def _address(url: str) -> _Address:
    """The URL without what is nobody's business, and whose name to log in with."""
    example = "write it as https://prometheus.example:9090"
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UsageError(f"--prometheus: not a URL; {example}") from None
    if parts.password is not None:
        mend = f"leave it out and set {PASSWORD_VARIABLE}, or give --password-file"
        raise UsageError(f"--prometheus: a password in a command line can be read by every user; {mend}")
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or not _plain(url):
        raise UsageError(f"--prometheus: {_line(url)}: not a URL of http or https; {example}")
    place = f"[{host}]" if ":" in host else host
    base = f"{parts.scheme}://{place}{f':{port}' if port else ''}{parts.path.rstrip('/')}"
    user = urllib.parse.unquote(parts.username) if parts.username else None
    return _Address(base, user, parts.scheme == "https", _loopback(host))


def _plain(url: str) -> bool:
    """Whether there is nothing in it that HTTP wants escaped."""
    return url.isascii() and url.isprintable() and " " not in url


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _authorization(address: _Address, login: Login) -> dict[str, str]:
    user = login.user or address.user
    if login.token_file and user:
        raise UsageError("--bearer-token-file: a user is given too; give one of both")
    if login.password_file and not user:
        raise UsageError("--password-file: whose password it is is not said; give --user too")
    if not user and not login.token_file:
        return {}
    if not (address.tls or address.here):
        mend = "give a URL with https://"
        raise UsageError(f"{address.base}: a password or token would cross the network unencrypted; {mend}")
    if login.token_file:
        token = _secret("--bearer-token-file", login.token_file)
        if not token.isascii():
            raise UsageError(f"--bearer-token-file: {login.token_file}: its first line is no token; write one there")
        return {"Authorization": f"Bearer {token}"}
    assert user is not None
    if ":" in user:
        raise UsageError("--user: a colon ends a name; give another")
    if login.password_file:
        password = _secret("--password-file", login.password_file)
    elif (password := os.environ.get(PASSWORD_VARIABLE, "")) == "":
        raise UsageError(f"--user: there is no password; set {PASSWORD_VARIABLE}, or give --password-file")
    # As the shell gave them: these bytes need not be UTF-8.
    pair = f"{user}:{password}".encode(errors="surrogateescape")
    return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}


def _secret(option: str, file: Path) -> str:
    """The first line of a file that holds a password or token."""
    try:
        with file.open(encoding="utf-8") as stream:
            secret = stream.readline(65536).rstrip("\r\n")
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise UsageError(f"{option}: {file}: {reason}; name a file that this user may read") from error
    except ValueError:
        raise UsageError(f"{option}: {file}: not text in UTF-8; write the secret into its first line") from None
    if not secret or not secret.isprintable():
        raise UsageError(f"{option}: {file}: no secret in its first line; write it there")
    return secret


def _tls(login: Login) -> ssl.SSLContext:
    if (login.cert is None) != (login.key is None):
        raise UsageError("--cert: a certificate is of no use without its key; give both --cert and --key")
    try:
        context = ssl.create_default_context(cafile=str(login.ca_file) if login.ca_file else None)
    except (OSError, ssl.SSLError) as error:
        why = (
            os.strerror(error.errno) if error.errno and not isinstance(error, ssl.SSLError) else "no certificate in PEM"
        )
        raise UsageError(f"--ca-file: {login.ca_file}: {why}; name the authority's certificate") from error
    if login.cert and login.key:
        try:
            context.load_cert_chain(login.cert, login.key, password=_no_passphrase)
        except (OSError, ssl.SSLError, _Encrypted) as error:
            mend = "name a certificate and its key in PEM, without a passphrase, that this user may read"
            raise UsageError(f"--cert: {login.cert} and {login.key} cannot be used together; {mend}") from error
    return context


class _Encrypted(Exception):
    """OpenSSL asks for a passphrase, which nobody is there to type."""


def _no_passphrase() -> str:
    raise _Encrypted


def _error_in(refused: urllib.error.HTTPError) -> str:
    """What the API says of its refusal; empty if it is not the API that refused."""
    try:
        return _line(str(json.loads(refused.read(2**16))["error"]))
    except (ValueError, KeyError, TypeError, OSError, HTTPException):
        return ""


def _missing(document: dict[str, Any]) -> str:
    """What an answer lacks, by its own word: Thanos and Prometheus warn, VictoriaMetrics has a flag. Empty: nothing."""
    # Remarks on the query itself are among the warnings in some versions.
    told = [str(one) for one in document.get("warnings") or () if not str(one).startswith("PromQL info")]
    return _line(told[0]) if told else "it says that it is partial" if document.get("isPartial") else ""


def _clean(url: str) -> str:
    """An address from elsewhere without a user, on one line."""
    parts = urllib.parse.urlsplit(url)
    return _line(urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="")))


def _line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]
