"""The preflight's matrix: what it calls itself, and that it fits a terminal whatever it is handed."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.outputs import preflight as matrix
from monitor.records import VERDICTS, Failure, Forecast, Preflight, Runtime, Target
from tests.outputs.specimens import AWKWARD, FALLBACK, HEALTHY, NOW
from tests.outputs.strategies import names, texts

FAILURE = Failure("session_failed", "/m.onnx: [ONNXRuntimeError] : 11 : EP_FAIL : Failed to finalize", "try another")


def forecast(soc: str, target: Target) -> Forecast:
    """A SoC on which the model falls back, as a machine of this kind sees it."""
    runtime = Runtime("qnn", target, "1.32.0", "2.7.0")
    return Forecast(soc, "fallback", FALLBACK.reason, "dynamic_shape", FALLBACK.placement, runtime)


@pytest.mark.parametrize(
    ("targets", "predicts", "words"),
    [
        (["simulator", "simulator"], True, "a PREDICTION by the simulator"),
        (["simulator", "cpu"], True, "a PREDICTION by the simulator"),
        (["hexagon", "hexagon"], False, "NO prediction: this machine has the real accelerator"),
        (["hexagon", "cpu"], False, "NO prediction: this machine has the real accelerator"),
        (["cpu", "cpu"], False, "NO prediction: no session's accelerator came up"),
        ([], False, "NO prediction: no session's accelerator came up"),
    ],
)
def test_it_says_what_it_is(targets: list[Target], predicts: bool, words: str) -> None:
    """Only the simulator predicts; on a board, and where nothing came up, table and JSON say that nothing is."""
    rows = [forecast(str(number), target) for number, target in enumerate(targets)]
    rows.append(Forecast("0", "unknown", FAILURE.detail, error=FAILURE))
    result = Preflight("m", NOW, tuple(rows))
    assert matrix.document(result)["prediction"] is predicts
    assert words in matrix.table(result, colour=False)


def test_socs_that_lose_the_same_are_explained_once() -> None:
    """Two SoCs with one list of culprits share its explanation; one that takes the model whole has none."""
    whole = Forecast("57", "healthy", HEALTHY.reason, None, HEALTHY.placement, HEALTHY.runtime)
    table = matrix.table(Preflight("m", NOW, (whole, forecast("58", "simulator"), forecast("59", "simulator"))), False)
    assert [line for line in table.splitlines() if line.startswith("on ")] == ["on 58, 59"]
    (row,) = [line for line in table.splitlines() if line.startswith("58 ")]
    assert row.split()[:4] == ["58", "fallback", "3.9", "%"]
    assert "Conv x 18" in row
    assert table.count("fix the dimension `samples`") == 1


def test_a_soc_without_a_session_has_no_numbers() -> None:
    """Its row is the runtime's own words, without the path and the code before them; its JSON has no share."""
    result = Preflight("m", NOW, (Forecast("0", "unknown", FAILURE.detail, error=FAILURE),))
    assert "0    unknown   no session: Failed to finalize" in matrix.table(result, colour=False).splitlines()
    (entry,) = matrix.document(result)["socs"]
    assert entry == {
        "soc": "0",
        "verdict": "unknown",
        "reason": FAILURE.detail,
        "error": {"reason": "session_failed", "detail": FAILURE.detail, "mend": "try another"},
    }


forecasts = st.one_of(
    st.builds(Forecast, names, st.sampled_from(VERDICTS), texts, error=st.builds(Failure, st.just("internal"), texts)),
    st.builds(forecast, names, st.sampled_from(["simulator", "cpu", "hexagon"])),
)


@given(st.lists(forecasts, min_size=1, max_size=4), names, st.lists(texts, max_size=2))
def test_anything_fits_a_terminal(rows: list[Forecast], model: str, notes: list[str]) -> None:
    """Lines of at most 100 printable characters, and JSON that a strict reader takes."""
    result = Preflight(model, NOW, tuple(rows), notes=(*notes, AWKWARD))
    for line in matrix.table(result, colour=False).split("\n"):
        assert len(line) <= 100
        assert line.isprintable()
    json.loads(json.dumps(matrix.document(msgspec.structs.replace(result)), allow_nan=False))
