"""Passwords: what is kept of them, what a scrape costs, and what guessing costs the board."""

from __future__ import annotations

import asyncio
import contextlib
import time
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor import passwords
from monitor.access import Web
from monitor.outputs import doorman
from monitor.outputs.doorman import Budget, Doorman
from tests.outputs.serving import ask, basic, hashed, serving


def test_a_line_of_scrypt_matches_its_password_only() -> None:
    """What the command makes is read back, with OWASP's cost, and no two lines of one password are the same."""
    line = passwords.line("grüße ☃".encode())
    assert line.startswith("scrypt:16384:8:5:")
    assert line != passwords.line("grüße ☃".encode())
    assert passwords.parse(line).matches("grüße ☃".encode())
    assert not passwords.parse(line).matches(b"something else")


@given(st.text(max_size=120) | st.from_regex(r"scrypt(:\d{1,9}){3}:[\w-]{22}:[\w-]{43}", fullmatch=True))
def test_any_other_text_is_no_hash(text: str) -> None:
    """Whatever stands in the file, it is bounded in cost or refused."""
    with contextlib.suppress(ValueError):
        found = passwords.parse(text)
        assert 128 * found.n * found.r <= 32 * 2**20
        assert found.p <= 16


def test_a_password_opens_the_pages() -> None:
    """Without it 401 and a challenge, with a wrong one too; with the right one the pages; /healthz without."""
    with serving(Web(users={"prometheus": hashed("secret")})) as service:
        for wish in ("", basic("prometheus", "wrong"), "Bearer secret"):
            for path in ("/", "/metrics"):
                response, body = ask(service, path, Authorization=wish)
                assert (response.status, body) == (401, b"a name and its password are needed\n")
                assert response.headers["WWW-Authenticate"] == 'Basic realm="npumon", charset="UTF-8"'
        for path in ("/", "/metrics"):
            assert ask(service, path, Authorization=basic("prometheus", "secret"))[0].status == 200
        assert ask(service, "/healthz")[1] == b"ok\n"
        assert ask(service, "/other")[0].status == 404
        assert ask(service, "/metrics", "POST")[0].status == 405


@pytest.mark.parametrize(
    "header",
    [
        "Basic",
        "Basic !",
        "Basic " + b64encode(b"prometheus").decode(),
        "basic cHJvbWV0aGV1czo",
        "Basic \x00",
        "x" * 4000,
    ],
)
def test_a_header_that_makes_no_sense_is_no_password(header: str) -> None:
    """It costs no computation and gets the challenge."""
    asked = Doorman({"prometheus": hashed("secret")})
    start = time.thread_time()
    assert asyncio.run(asked.ask(header, "127.0.0.1")) == (False, 0)
    assert time.thread_time() - start < 0.03


def test_scrapes_cost_no_scrypt_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A right password is computed once for a client, and so is a wrong one that is tried again and again."""
    computed: list[bytes] = []
    real = doorman._matches

    def counted(user: passwords.Hash, password: bytes) -> tuple[bool, float]:
        computed.append(password)
        return real(user, password)

    monkeypatch.setattr(doorman, "_matches", counted)

    async def scrape() -> None:
        guard = Doorman({"a": hashed("right"), "b": hashed("other")})
        for _ in range(20):
            assert (await guard.ask(basic("a", "right"), "10.0.0.1")).welcome
            assert not (await guard.ask(basic("a", "wrong"), "10.0.0.1")).welcome
        at_once = [guard.ask(basic("b", "other"), "10.0.0.1") for _ in range(20)]
        assert all(answer.welcome for answer in await asyncio.gather(*at_once))
        assert not (await guard.ask(basic("b", "right"), "10.0.0.1")).welcome
        assert (await guard.ask(basic("a", "right"), "10.0.0.2")).welcome

    asyncio.run(scrape())
    assert computed == [b"right", b"wrong", b"other", b"right", b"right"]


def test_guesses_are_bounded_and_leave_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who guesses is told to wait, also with the right guess; who is known comes in, and so do others' first tries."""
    monkeypatch.setattr(doorman, "CLIENT_BURST", 0.1)

    async def guess() -> None:
        guard = Doorman({"a": hashed("right")})
        assert (await guard.ask(basic("a", "right"), "10.0.0.1")).welcome
        answers = [await guard.ask(basic(f"a{number % 2}", str(number)), "10.0.0.2") for number in range(50)]
        assert not any(answer.welcome for answer in answers)
        computed = sum(not answer.wait for answer in answers)
        assert 1 <= computed <= 8
        assert (await guard.ask(basic("a", "right"), "10.0.0.2")).wait
        assert (await guard.ask(basic("a", "right"), "10.0.0.1")).welcome
        assert (await guard.ask(basic("a", "right"), "10.0.0.3")).welcome

    start = time.process_time()
    asyncio.run(guess())
    assert time.process_time() - start < 2.5


def test_what_a_doorman_remembers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of clients and passwords leave a few dozen of each behind; IPv6 hosts share their network's budget."""
    monkeypatch.setattr(doorman, "ALL_BURST", 0.5)

    async def flood() -> Doorman:
        guard = Doorman({"a": hashed("right")})
        for number in range(2000):
            await guard.ask(basic("a", str(number)), f"10.{number // 256}.{number % 256}.1")
        for number in range(5):
            await guard.ask(basic("a", str(number)), f"2001:db8::{number}")
        return guard

    guard = asyncio.run(flood())
    assert len(guard._clients) <= doorman.REMEMBERED
    assert [client for client in guard._clients if ":" in client] == ["2001:db8::/64"]
    assert len(guard._wrong) <= doorman.REMEMBERED


@given(
    st.sampled_from([(doorman.CLIENT_SHARE, doorman.CLIENT_BURST), (doorman.ALL_SHARE, doorman.ALL_BURST)]),
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 2)), max_size=60),
)
def test_a_budget_spends_no_more_than_its_share(allowed: tuple[float, float], steps: list[tuple[float, float]]) -> None:
    """Whenever something is asked for: no more is spent than the burst, the share of the time, and one computation."""
    share, burst = allowed
    budget, now, spent = Budget(share, burst, 0.0), 0.0, 0.0
    for pause, cost in steps:
        now += pause
        if budget.wait(now) == 0:
            budget.spend(cost)
            spent += cost
        assert spent <= burst + share * now + 2.0 + 1e-9
