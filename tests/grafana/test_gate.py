"""``npumon gate`` over a simulated fleet behind a real Prometheus: rings of boards with their own labels.

A rollout happens in the middle of the window. In one ring it is good, in one it breaks an SoC, and in one boards fall
silent. The commands are real, and reach Prometheus as they would: directly, or through a proxy with TLS and a password.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pytest

from tests.certificates import Authority
from tests.e2e.running import Done, Terminal, npumon
from tests.grafana.fleet import FALLEN_FLOPS, MODELS, NEW, Condition, Fleet, SimulatedBoard, file_of
from tests.grafana.prometheus_server import Expositions, Prometheus
from tests.grafana.small_fleet import PAGES

MODEL, BROKEN, ROLLED_OUT = "segmenter", "SA8295P", "d2" * 32
RINGS = {"stable": 10, "good": 10, "bad": 10, "quiet": 15}
BEFORE, AFTER = 3, 8
"""Seconds that the fleet is watched before the rollout, and after it."""
SHORT = ("--window", "40s", "--soak", "5s")


def fleet_of(rings: dict[str, int]) -> dict[str, list[SimulatedBoard]]:
    """Boards of two SoCs in turn, with the newer SDK."""
    found, number = {}, 0
    for ring, count in rings.items():
        found[ring] = [SimulatedBoard(number + 2 * index) for index in range(count)]
        number += 2 * count + (2 * count) % 4
    for board in (board for boards in found.values() for board in boards):
        board.sdk = NEW
    return found


def targets(fleet: Fleet, rings: dict[str, list[SimulatedBoard]]) -> list[dict[str, Any]]:
    """Prometheus' static configuration of the fleet, each ring with its label."""
    return [
        {"targets": [f"{board.address}:{fleet.port}" for board in boards], "labels": {"ring": ring}}
        for ring, boards in rings.items()
    ]


def roll_out(fleet: Fleet, rings: dict[str, list[SimulatedBoard]]) -> None:
    """The new model file in three rings, on one SoC of one of them bad; a third of a ring falls silent."""
    bad = Condition(ROLLED_OUT, 3.1, FALLEN_FLOPS, fallen=True)
    for ring in ("good", "bad", "quiet"):
        for board in rings[ring]:
            board.become(MODEL, bad if (ring, board.soc) == ("bad", BROKEN) else Condition(ROLLED_OUT))
    fleet.silence([board.address for board in rings["quiet"][: len(rings["quiet"]) // 3]])


class Scene(NamedTuple):
    """A Prometheus that has watched it all."""

    url: str
    silent: list[str]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The fleet after the rollout, and the small fleet of odd boards beside it in a ring of its own."""
    rings = fleet_of(RINGS)
    boards = [board for ring in rings.values() for board in ring]
    with Fleet(boards, every=5) as fleet, Expositions(PAGES) as odd:
        odd_ones = [{**one, "labels": {**one["labels"], "ring": "odd"}} for one in odd.targets()]
        listed = [*targets(fleet, rings), *odd_ones]
        with Prometheus(tmp_path_factory.mktemp("gate"), listed, interval="1s") as server:
            server.wait(lambda: server.now('count(up{ring!="odd"} == 1)') == [({}, len(boards))], "scraped whole")
            time.sleep(BEFORE)
            fleet.do(lambda: roll_out(fleet, rings))
            time.sleep(AFTER)
            silent = [f"npumon/{board.address}:{fleet.port}" for board in rings["quiet"][:5]]
            yield Scene(server.url, silent)


def gate(url: str, ring: str, *more: str | Path, baseline: str | None = "stable", password: str = "") -> Done:
    """The command about one ring."""
    match = ("--match", f'ring="{ring}"', *(("--baseline-match", f'ring="{baseline}"') if baseline else ()))
    return npumon("gate", "--prometheus", url, *match, *SHORT, *more, NPUMON_PROMETHEUS_PASSWORD=password)


def criteria(done: Done, model: str = MODEL) -> dict[str, dict[str, Any]]:
    """The criteria of a model, by name."""
    return {one["name"]: one for one in json.loads(done.out)["criteria"] if one["model"] == model}


def test_the_good_rollout_passes(scene: Scene) -> None:
    """Every criterion of every model, by the new version alone though the window began before it."""
    done = gate(scene.url, "good", "--json")
    document = json.loads(done.out)
    assert (done.code, done.err, document["outcome"]) == (0, "", "pass")
    assert {(one["model"], one["outcome"]) for one in document["criteria"]} == {(name, "pass") for name in MODELS}
    cohorts = criteria(done)["cohorts"]["cohorts"]
    assert {(one["kind"]["soc"], one["version"]["sha256"]) for one in cohorts} == {
        ("QCS6490", ROLLED_OUT),
        ("SA8295P", ROLLED_OUT),
    }
    assert [one["boards"] for one in cohorts] == [5, 5]


def test_the_bad_rollout_fails_and_names_cohort_and_op(scene: Scene, tmp_path: Path) -> None:
    """The table, the document and JUnit all name the model, its SoC, its version and the op."""
    done = gate(scene.url, "bad", "--json", "--junit", tmp_path / "gate.xml")
    found = criteria(done)
    assert (done.code, done.err) == (1, "")
    assert {name: one["outcome"] for name, one in found.items()} == {
        "boards": "pass",
        "soak": "pass",
        "healthy": "fail",
        "cohorts": "fail",
        "ops": "fail",
    }
    assert found["healthy"]["reason"] == "50 % of the measured time; 5 boards not healthy"
    (worse,) = [one for one in found["cohorts"]["cohorts"] if one["outcome"] == "fail"]
    assert (worse["kind"]["soc"], worse["version"]["sha256"]) == (BROKEN, ROLLED_OUT)
    assert (worse["unhealthy"], worse["boards"], worse["worse"]) == (5, 5, ["unhealthy", "slower"])
    assert worse["median_seconds"] == pytest.approx(3.1 * worse["baseline_median_seconds"], rel=0.1)
    ops = {one["op_type"]: one for one in found["ops"]["ops"]}
    assert ops["Conv"]["boards"] == ops["Conv"]["of"] == 5
    others = [one["outcome"] for name in MODELS if name != MODEL for one in criteria(done, name).values()]
    assert set(others) == {"pass"}
    failed = ElementTree.parse(tmp_path / "gate.xml").findall(".//testcase[failure]")
    assert {(one.get("classname"), one.get("name")) for one in failed} == {
        (MODEL, name) for name in ("healthy", "cohorts", "ops")
    }


def test_the_table_tells_it_in_a_hundred_columns(scene: Scene) -> None:
    """Without a terminal there is no colour; cohort, op and number of boards stand in it."""
    done = gate(scene.url, "bad")
    assert (done.code, done.err) == (1, "")
    assert done.out.startswith("fail  10 boards, 5 models, 40s until ")
    assert max(map(len, done.out.splitlines())) <= 100
    assert "\x1b" not in done.out
    flat = " ".join(done.out.split())
    assert f"{MODEL} on {BROKEN}, model {ROLLED_OUT[:12]}, SDK v2.48.0" in flat
    assert "5 of 5 boards not healthy (baseline 0 of 5)" in flat
    assert f"{MODEL} on {BROKEN}: Conv, 90.9 % of the FLOPs (baseline 0 %), on 5 of 5 boards" in flat


def test_a_third_that_is_silent_is_no_pass(scene: Scene) -> None:
    """They were well until they fell silent, and so are the others: could not measure, with their names."""
    done = gate(scene.url, "quiet", "--json")
    document = json.loads(done.out)
    assert (done.code, done.err, document["outcome"]) == (3, "", "unmeasured")
    assert criteria(done)["boards"]["reason"] == "10 of 15 boards measured; 5 silent"
    silent = {one["board"] for one in document["unmeasured"] if one["why"] == "silent"}
    assert silent == set(scene.silent)


def test_boards_that_were_never_there_are_missing(scene: Scene) -> None:
    """Ten boards pass where ten should be; where fifteen should be, nothing is known of a third."""
    done = gate(scene.url, "good", "--boards", "15", "--json")
    assert done.code == 3
    assert criteria(done)["boards"]["reason"] == "10 of 15 boards measured; 5 never heard of"


def test_a_board_that_was_not_watched_for_long_enough_is_no_pass(scene: Scene) -> None:
    """Ten minutes are asked for, and the fleet is younger."""
    done = gate(scene.url, "good", "--window", "10m", "--soak", "10m", "--json")
    assert done.code == 3
    outcomes = {name: one["outcome"] for name, one in criteria(done).items()}
    assert outcomes.pop("soak") == "unmeasured"
    # Of so young a fleet, a window of ten minutes has one coarse step or none, which medians and ops are looked at in.
    assert {outcomes.pop(name) for name in ("cohorts", "ops")} <= {"pass", "unmeasured"}
    assert set(outcomes.values()) == {"pass"}
    assert criteria(done)["soak"]["reason"] == "0 of 10 boards reached it"


def test_what_is_no_measurement_on_hardware_is_told_apart(scene: Scene) -> None:
    """Simulators, stale checks, checks that fail and boards that are silent: none counts, and each is called so."""
    done = gate(scene.url, "odd", "--json", baseline=None)
    why = {
        (one["board"].removeprefix("npumon/"), one["model"]): one["why"] for one in json.loads(done.out)["unmeasured"]
    }
    assert why["board-1", "qdq_net"] == "not_on_hardware"  # a simulator
    assert why["board-10", "qdq_net"] == "silent"
    assert why["board-11", "qdq_net"] == "stale"
    assert why["board-9", "ppocr_det"] == "unknown"
    assert why["board-9", "qdq_net"] == "model_missing"
    # On board-8 the accelerator did not come up: that is no missing measurement, it is the worst of fallbacks.
    assert ("board-8", "minilm") not in why
    assert criteria(done, "minilm")["healthy"]["reason"].startswith("0 % of the measured time")


def test_a_terminal_has_colours(scene: Scene) -> None:
    """The verdict in red, on a terminal only."""
    arguments = ("--prometheus", scene.url, "--match", 'ring="bad"', *SHORT)
    terminal = Terminal("gate", *arguments)
    terminal.read()
    assert (terminal.process.wait(20), terminal.err) == (1, "")
    assert terminal.out.startswith("\x1b[31mfail\x1b[0m  10 boards")
    assert "no baseline was given (--baseline-match): nothing was compared" in terminal.out


def test_a_selector_that_chooses_nothing_could_not_be_measured(scene: Scene) -> None:
    """It may be a mistake, and it may be a fleet that is down."""
    done = npumon("gate", "--prometheus", scene.url, "--match", 'ring="gold"', *SHORT)
    told = (
        'no board matches {ring="gold"} within 40s; match by labels of the targets (job, instance, those of service '
        "discovery), not by what boards tell"
    )
    assert (done.code, done.out, done.err) == (3, "", f"{scene.url}: {told}\n")


def test_what_prometheus_refuses_is_told_in_its_own_words(scene: Scene) -> None:
    """A pattern that is none is the user's mistake."""
    done = npumon("gate", "--prometheus", scene.url, "--match", 'ring=~"("', *SHORT)
    assert done.code == 2
    assert re.fullmatch(
        re.escape(f"{scene.url}: refused the query (")
        + ".*error parsing regexp: missing closing \\): .*"
        + re.escape("); mend --match or --baseline-match\n"),
        done.err,
    )


def test_boards_are_not_compared_with_themselves(scene: Scene) -> None:
    """A baseline that has boards of the candidate is the user's mistake."""
    done = gate(scene.url, "good", baseline="good")
    assert done.code == 2
    assert done.err.startswith("--baseline-match: 10 boards (npumon/127.0.")
    assert done.err.endswith(", …) are chosen by --match too; choose others to compare with\n")


# ------------------------------------------------------------------------------------------ through a proxy


@contextlib.contextmanager
def proxy(upstream: str, tls: ssl.SSLContext, wanted: str) -> Iterator[str]:
    """A server with TLS that passes ``/prom/...`` on to whoever has the right ``Authorization``; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Authorization") != wanted:
                self.send_response(401)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            assert self.path.startswith("/prom/")
            request = urllib.request.Request(upstream + self.path.removeprefix("/prom"), body, dict(self.headers))
            with urllib.request.urlopen(request, timeout=30) as answer:
                content = answer.read()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *args: object) -> None:
            """A client that does not trust the certificate ends the connection; that is not the proxy's error."""

    server = Server(("127.0.0.1", 0), Handler)
    server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}/prom"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_through_tls_with_client_certificate_password_and_prefix(scene: Scene, tmp_path: Path) -> None:
    """The password from the environment or a file, the name from the URL or an option; else one is told."""
    authority = Authority(tmp_path)
    pair, mine = authority.issue("server"), authority.issue("client")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.pair.cert))
    tls.load_cert_chain(*pair)
    tls.verify_mode = ssl.CERT_REQUIRED
    secret = tmp_path / "secret"
    secret.write_text("pass word\n", encoding="utf-8")
    basic = base64.b64encode(b"gate:pass word").decode()
    shown = ("--cert", mine.cert, "--key", mine.key, "--ca-file", authority.pair.cert)
    with proxy(scene.url, tls, f"Basic {basic}") as url:
        named = url.replace("https://", "https://gate@")
        assert gate(named, "good", *shown, baseline=None, password="pass word").code == 0
        assert gate(url, "good", *shown, "--user", "gate", "--password-file", secret, baseline=None).code == 0
        refused = gate(named, "good", *shown, password="other")
        told = f"{url}: not let in (HTTP 401); look at the name and the password, or at the token\n"
        assert (refused.code, refused.err) == (2, told)
        untrusted = gate(url, "good", *shown[:4])
        why = "self-signed certificate in certificate chain"
        told = f"{url}: its certificate is not trusted ({why}); give its authority with --ca-file\n"
        assert (untrusted.code, untrusted.err) == (2, told)
    with proxy(scene.url, tls, "Bearer pass word") as url:
        assert gate(url, "good", *shown, "--bearer-token-file", secret, baseline=None).code == 0


# ------------------------------------------------------------------------------------------------ at scale


@pytest.mark.slow
def test_four_hundred_boards(tmp_path: Path) -> None:
    """Half a fleet of 400 boards with 5 models is judged in minutes, on a busy machine too, with the same answer."""
    boards = [SimulatedBoard(number) for number in range(400)]
    rings: dict[str, list[SimulatedBoard]] = {"stable": [], "bad": []}
    for number, board in enumerate(boards):
        board.sdk = NEW
        rings["bad" if number // 4 % 2 else "stable"].append(board)
    bad = Condition(ROLLED_OUT, 3.1, FALLEN_FLOPS, fallen=True)

    def roll_out_at_once(fleet: Fleet) -> None:
        for board in rings["bad"]:
            board.become(MODEL, bad if board.soc == BROKEN else Condition(ROLLED_OUT))

    with Fleet(boards) as fleet:
        fleet.do(lambda: roll_out_at_once(fleet))
        with Prometheus(tmp_path, targets(fleet, rings), interval="10s") as server:
            server.wait(lambda: server.now("count(up == 1)") == [({}, 400)], "scraped whole", 90)
            time.sleep(60)
            began = time.monotonic()
            done = gate(server.url, "bad", "--window", "5m", "--soak", "30s", "--json")
            took = time.monotonic() - began
    print(f"gate over {len(rings['bad'])} of 400 boards: {took:.1f} s")
    assert done.code == 1
    worse = [one for one in criteria(done)["cohorts"]["cohorts"] if one["outcome"] == "fail"]
    assert [(one["kind"]["soc"], one["version"]["sha256"]) for one in worse] == [(BROKEN, ROLLED_OUT)]
    assert criteria(done)["ops"]["ops"][0]["op_type"] == "Conv"
    assert file_of(MODEL) != ROLLED_OUT
    assert took < 180
