"""The pipeline of docs/gate.md, run as it stands there: preflight and audit, a soak, a gate over a fleet.

The commands are taken out of the page and run by a shell, as a CI runner does. What a test cannot have is replaced, and
nothing else: addresses, and times.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from string import Template
from typing import Any
from xml.etree import ElementTree

import onnx
import pytest

from tests import models
from tests.certificates import Authority
from tests.e2e.running import Done, environment
from tests.grafana.fleet import FALLEN_FLOPS, Condition, Fleet
from tests.grafana.prometheus_server import Prometheus
from tests.grafana.test_gate import BROKEN, MODEL, fleet_of, proxy, targets
from tests.published import published
from tests.soak.soaking import Bench, calm

PAGE = Path(__file__).resolve().parents[2] / "docs" / "gate.md"
PASSWORD = "pass word"

# ------------------------------------------------------------------------------------------------ the page's YAML

Line = tuple[int, str]


def pipeline() -> dict[str, Any]:
    """The page's pipeline, as a YAML parser reads it."""
    (text,) = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"(^|\s+)#.*", "", line) for line in text.splitlines()]
    found = _block([(len(line) - len(line.lstrip()), line.strip()) for line in lines if line.strip()])
    assert isinstance(found, dict)
    return found


def _block(lines: list[Line]) -> Any:
    """YAML as far as a pipeline needs it: mappings, lists, texts, folded or on one line. Anything else fails."""
    indent = lines[0][0]
    heads = [number for number, (at, _) in enumerate(lines) if at == indent]
    parts = [lines[begin:end] for begin, end in zip(heads, [*heads[1:], len(lines)], strict=True)]
    if lines[0][1].startswith("- "):
        return [_value(head.removeprefix("- "), below) for (_, head), *below in parts]
    found = {}
    for (_, head), *below in parts:
        key, colon, rest = head.partition(":")
        assert colon, head
        assert re.fullmatch(r"\w+", key), head
        assert key not in found, head
        found[key] = _value(rest.strip(), below)
    return found


def _value(head: str, below: list[Line]) -> Any:
    if head == ">-":
        return " ".join(text for _, text in below)
    if not head:
        return _block(below)
    assert not below, below
    if head.startswith("["):
        assert head.endswith("]"), head
        return [_value(one.strip(), []) for one in head[1:-1].split(",")]
    assert not re.search(r"^[\W_](?<!\$)|: | #", head), f"not plain: {head}"
    return head


# ------------------------------------------------------------------------------------------------------- a runner


def run(job: str, folder: Path, replaced: Mapping[str, str] | None = None, **variables: str) -> Done:
    """Run a job's script in ``folder`` as a runner does: in a shell that ends at the first command that fails.

    ``replaced`` are literals, each of which stands in the script once.
    """
    described = pipeline()[job]
    script = "\n".join(described["script"])
    for old, new in (replaced or {}).items():
        assert script.count(old) == 1, f"{script.count(old)} times in the page: {old}"
        script = script.replace(old, new)
    inner = {name: Template(value).substitute(variables) for name, value in described.get("variables", {}).items()}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment(PATH=path, **variables, **inner),
        timeout=300,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    for name in artifacts(described):
        assert (folder / name).exists(), f"{name} is collected, and was not made"
    return Done(done.returncode, done.stdout, done.stderr)


def quantized(folder: Path) -> None:
    """The tests' small network without what any SoC lacks."""
    models.saved(calm(), folder)


def fixed(folder: Path) -> None:
    """A published model, float, with its shapes fixed as its application has them."""
    proto = onnx.load(str(published("ppocr_cls")))
    for dim, size in zip(proto.graph.input[0].type.tensor_type.shape.dim, (1, 3, 48, 192), strict=True):
        dim.dim_value = size
    models.saved(proto, folder)


def artifacts(described: dict[str, Any]) -> list[str]:
    """What a job collects, however it ends."""
    kept = described["artifacts"]
    assert kept["when"] == "always"
    reports = kept.get("reports", {})
    assert set(reports) <= {"junit"}
    return [*kept.get("paths", []), *reports.values()]


def cases(file: Path, element: str) -> set[str]:
    """The names of the test cases with this element."""
    return {str(case.get("name")) for case in ElementTree.parse(file).findall(f".//testcase[{element}]")}


# --------------------------------------------------------------------------------------------------------- the jobs


def test_the_jobs_are_those_that_run_here() -> None:
    """Each job is run by a test below, in a stage that there is, and calls nothing but npumon."""
    found = pipeline()
    stages = found.pop("stages")
    assert list(found) == ["predict", "soak", "gate"]
    assert [job["stage"] for job in found.values()] == stages
    assert {line.split()[0] for job in found.values() for line in job["script"]} == {"npumon"}
    assert {line.split()[1] for job in found.values() for line in job["script"]} == {
        "preflight",
        "audit",
        "soak",
        "gate",
    }


@pytest.mark.parametrize("make", [quantized, pytest.param(fixed, marks=pytest.mark.slow)])
def test_predict_passes_a_model_that_every_soc_takes(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A small quantized network and a published model: the simulator takes all of it, and the picture is collected."""
    make(tmp_path)
    done = run("predict", tmp_path)
    assert (done.code, done.err) == (0, "")
    assert len(re.findall(r"^(?:57|60) +healthy +100 %", done.out, re.MULTILINE)) == 2, done.out
    assert (tmp_path / "audit.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_predict_fails_a_model_that_falls_back(tmp_path: Path) -> None:
    """A published model whose shapes are not fixed: the job fails, and the picture of why is there all the same."""
    shutil.copy(published("swift_f0"), tmp_path / "model.onnx")
    done = run("predict", tmp_path)
    assert done.code == 1
    assert done.out.startswith("model  fallback")


def test_a_soak_on_a_board(tmp_path: Path) -> None:
    """Seconds instead of hours, on the simulator instead of a board."""
    bench = Bench(tmp_path, ("calm",))
    done = run("soak", tmp_path, {"8h": "8s"}, **bench.environment)
    assert (done.code, done.err) == (0, ""), done.out
    kept = tmp_path / "soak"
    assert {"report.html", "summary.json", "junit.xml"} <= {one.name for one in kept.iterdir()}
    assert not cases(kept / "junit.xml", "failure")


def test_a_gate_on_the_fleet(tmp_path: Path) -> None:
    """A good rollout to the page's canaries passes, a bad one after it does not; behind TLS and a password."""
    rings = fleet_of({"stable": 20, "canary": 20})
    boards = [board for ring in rings.values() for board in ring]
    authority = Authority(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*authority.issue("server"))
    basic = base64.b64encode(f"pipeline:{PASSWORD}".encode()).decode()
    trusted = {"PROMETHEUS_PASSWORD": PASSWORD, "SSL_CERT_FILE": str(authority.pair.cert)}
    with (
        Fleet(boards, every=5) as fleet,
        Prometheus(tmp_path, targets(fleet, rings), interval="1s") as server,
        proxy(server.url, tls, f"Basic {basic}") as url,
    ):
        replaced = {"https://prom.example": url, "24h": "40s", "8h": "5s"}
        server.wait(lambda: server.now("count(up == 1)") == [({}, len(boards))], "scraped whole")

        def roll_out(good: Condition, bad: Condition) -> None:
            for board in rings["canary"]:
                board.become(MODEL, bad if board.soc == BROKEN else good)

        fleet.do(lambda: roll_out(Condition("d2" * 32), Condition("d2" * 32)))
        time.sleep(7)
        done = run("gate", tmp_path, replaced, **trusted)
        assert (done.code, done.err) == (0, ""), done.out
        assert not cases(tmp_path / "gate.xml", "failure") | cases(tmp_path / "gate.xml", "error")

        fallen = Condition("e3" * 32, 3.1, FALLEN_FLOPS, fallen=True)
        fleet.do(lambda: roll_out(Condition("e3" * 32), fallen))
        time.sleep(7)
        done = run("gate", tmp_path, replaced, **trusted)
        assert (done.code, done.err) == (1, ""), done.out
        assert cases(tmp_path / "gate.xml", "failure") == {"healthy", "cohorts", "ops"}

        wrong = run("gate", tmp_path, replaced, **{**trusted, "PROMETHEUS_PASSWORD": "of last year"})
        assert wrong.code == 2
        assert cases(tmp_path / "gate.xml", "error") == {"verdict"}
