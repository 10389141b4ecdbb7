"""Two soaks held against each other: real ones on the simulator, alike and unlike, and what must not pass for alike."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from monitor.analysis.compare import apart
from monitor.service.soak_report import read
from tests import models
from tests.e2e.running import Done, npumon, write_config
from tests.soak import night
from tests.soak.night import HOUR, Model


def compared(a: Path, b: Path, *more: str) -> tuple[Done, dict[str, Any]]:
    """The command's end, and the first model of what it prints."""
    done = npumon("soak", "compare", a, b, *more, "--json")
    found: dict[str, Any] = json.loads(done.out)["models"][0]
    return done, found


@pytest.mark.slow
def test_real_soaks_alike_and_unlike(tmp_path: Path) -> None:
    """Two soaks of one thing do not differ; with another session setting the difference is found, and which is slower.

    Without the optimizer quantized convolutions run as float ones: two to three times as long on a CPU, where soc_model
    80 leaves all of this model. Real probes and real inferences; nothing is planted.
    """
    path = models.saved(models.selu_qdq(64, 48), tmp_path)
    for name, more in {"a": {}, "b": {}, "c": {"graph_optimization_level": "ORT_DISABLE_ALL"}}.items():
        session = {"intra_op_num_threads": 1, **more}
        settings = {
            "path": path,
            "replays": 10,
            "compare_outputs": False,
            "session": session,
            "gate": {"median": "10s"},
        }
        config = write_config(tmp_path, {"m": settings}, options={"soc_model": "80"})
        done = npumon("soak", "-c", config, "--duration", "60s", "--out", tmp_path / name)
        assert done.code == 1, done.err  # all of it is on the CPU, in each of them
        assert json.loads((tmp_path / name / "summary.json").read_text())["complete"]

    # Where the machine is busy, how alike they are may not be told, or one of them drifted by itself.
    done, alike = compared(tmp_path / "a", tmp_path / "b", "--bound", "25")
    assert set(alike["worse"]) <= {"drift"}
    assert done.code == (1 if alike["worse"] else 3 if alike["why"] else 0)
    assert alike.get("low", 1.0) < 1.1
    assert alike.get("high", 1.0) > 0.9
    done, slower = compared(tmp_path / "a", tmp_path / "c", "--bound", "25")
    assert (done.code, slower["worse"]) == (1, ["latency"])
    assert slower["ratio"] > slower["low"] > 1
    assert slower["cliffs_delta"] > 0.5
    assert slower["p"] < 0.01
    assert any(note.startswith("`session` is ") for note in slower["notes"])
    done, faster = compared(tmp_path / "c", tmp_path / "a", "--bound", "25")
    assert (done.code, faster["worse"]) == (0, [])
    assert faster["ratio"] == pytest.approx(1 / slower["ratio"])
    assert faster["cliffs_delta"] == pytest.approx(-slower["cliffs_delta"])


def test_what_is_not_seen_is_no_pass(tmp_path: Path) -> None:
    """Where the interval reaches beyond the bound it cannot be told whether B is slower: 3, and why."""
    for number, name in enumerate("ab"):
        night.write(tmp_path / name, [Model("m", 0.004, number)], hours=0.7, cut=math.inf)
    done, found = compared(tmp_path / "a", tmp_path / "b", "--bound", "0.1")
    assert (done.code, found["worse"]) == (3, [])
    assert found["high"] > 1.001
    assert found["why"].startswith("whether B is slower by more than 0.1 % cannot be told: the interval reaches ")
    table = npumon("soak", "compare", tmp_path / "a", tmp_path / "b", "--bound", "0.1")
    assert table.out.splitlines()[0] == "m  cannot be told"
    done, found = compared(tmp_path / "a", tmp_path / "b")
    assert (done.code, found["worse"], found["why"]) == (0, [], "")


def test_a_run_that_measured_nothing_is_no_pass(tmp_path: Path) -> None:
    """A model that failed in every check of B is not called alike."""
    every = tuple(60.0 * number for number in range(1, 61))
    night.write(tmp_path / "a", [Model("m", 0.004, 1)], hours=1, cut=math.inf)
    night.write(tmp_path / "b", [Model("m", 0.004, 1, fails=every)], hours=1, cut=math.inf)
    done, found = compared(tmp_path / "a", tmp_path / "b")
    assert (done.code, found["why"]) == (3, "B measured nothing")
    assert "ratio" not in found


def test_a_model_of_one_run_is_not_judged(tmp_path: Path) -> None:
    """What only one of the two has is said to be so, and does not count."""
    night.write(tmp_path / "a", [Model("m", 0.004, 1), Model("n", 0.004, 3)], hours=1, cut=math.inf)
    night.write(tmp_path / "b", [Model("m", 0.004, 2)], hours=1, cut=math.inf)
    done = npumon("soak", "compare", tmp_path / "a", tmp_path / "b")
    assert (done.code, "n  not compared" in done.out.splitlines()) == (0, True)


def test_what_else_differs_is_told(tmp_path: Path) -> None:
    """Settings, pace, board, target and an early end: whatever could explain a difference, and nothing else."""
    night.write(tmp_path, [Model("m", 0.004, 1)], hours=0.5, cut=math.inf)
    a = read(tmp_path).result
    assert list(apart(a, a, "m")) == []
    settings = {"m": {"replays": "10", "path sha256": "other", "dims": "{}"}}
    session = replace(a.sessions[0], board=replace(night.BOARD, hostname="board-18", soc=None))
    b = replace(
        a,
        subject=replace(a.subject, pace_seconds=0.0, models=settings),
        sessions=(session,),
        target="simulator",
        wanted_seconds=HOUR,
    )
    assert list(apart(a, b, "m")) == [
        "A was made on hexagon, B on simulator",
        "the board's hostname is board-17 in A, board-18 in B",
        "the board's soc is QCS8550 in A, not told in B",
        "a round began every 60 s in A, 0 s in B",
        "`dims` is absent in A, {} in B",
        "`replays` is 30 in A, 10 in B",
        "B ended early: 1800 s of 3600 s were measured",
    ]
    assert next(iter(apart(b, b, "m"))) == "both were made on a simulator: times mean nothing"
