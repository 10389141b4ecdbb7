"""The wrapped session against the bare one: the same to whoever holds it."""

from __future__ import annotations

import copy
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from monitor.capture import TappedSession
from tests import models
from tests.capture.offering import kept, ledgers, tapping

X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(1, 8)


@pytest.fixture(scope="module")
def session() -> Any:
    """A real one."""
    return ort.InferenceSession(models.well_named().SerializeToString(), providers=["CPUExecutionProvider"])


def test_results_are_the_sessions(session: Any, tmp_path: Path) -> None:
    """By position or by name, from arrays, lists or OrtValues: the outputs are the same, the inputs are kept."""
    (expected,) = session.run(None, {"x": X})
    value = ort.OrtValue.ortvalue_from_numpy(X)
    with tapping(tmp_path, rate=1.0) as tap:
        tapped = TappedSession(session, tap)
        outputs = [
            tapped.run(None, {"x": X})[0],
            tapped.run(["y"], {"x": X}, ort.RunOptions())[0],
            tapped.run(output_names=["y"], input_feed={"x": X}, run_options=None)[0],
            tapped.run(None, {"x": X.tolist()})[0],
            tapped.run_with_ort_values(["y"], {"x": value})[0].numpy(),
        ]
    assert all(np.array_equal(output, expected) for output in outputs)
    samples = kept(tmp_path, "fair")
    assert 4 <= len(samples) <= 5
    assert all(np.allclose(sample["x"], X) for sample in samples)
    assert sum(ledgers(tmp_path)[0]["bins"]) == 5
    assert ledgers(tmp_path)[0]["shapes"] == {"x[1,8]": 5}


def test_a_call_that_fails_fails_as_before(session: Any, tmp_path: Path) -> None:
    """The error is the session's own, and the call is none of production's latencies."""
    with tapping(tmp_path, rate=1.0) as tap, pytest.raises(Exception, match="Got invalid dimensions") as caught:
        TappedSession(session, tap).run(None, {"x": np.zeros((2, 9), np.float32)})
    with pytest.raises(type(caught.value)):
        session.run(None, {"x": np.zeros((2, 9), np.float32)})
    assert not tmp_path.exists() or not list(tmp_path.iterdir())


def test_all_else_is_the_sessions_own(session: Any, tmp_path: Path) -> None:
    """Methods and attributes are passed on, missing ones are missing, and it can be copied like the session."""
    with tapping(tmp_path) as tap:
        tapped = TappedSession(session, tap)
        assert tapped.get_providers() == session.get_providers()
        assert [tensor.name for tensor in tapped.get_inputs()] == ["x"]
        binding = tapped.io_binding()
        binding.bind_cpu_input("x", X)
        binding.bind_output("y")
        tapped.run_with_iobinding(binding)
        assert np.array_equal(binding.copy_outputs_to_cpu()[0], session.run(None, {"x": X})[0])
        assert copy.copy(tapped).get_providers() == session.get_providers()
        with pytest.raises(AttributeError, match="no_such_thing"):
            _ = tapped.no_such_thing
        assert not hasattr(tapped, "no_such_thing")


def test_it_goes_into_no_other_process(session: Any, tmp_path: Path) -> None:
    """Like the session it refuses to be pickled, at once and not in the process that it would have been sent to."""
    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(session)
    with tapping(tmp_path) as tap, pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(TappedSession(session, tap))
    with tapping(tmp_path) as tap, pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(tap)


def test_asynchronous_calls_are_the_sessions_own(session: Any, tmp_path: Path) -> None:
    """``run_async`` calls back with what ``run`` returns; nothing of it is counted, since nobody sees its end."""
    done = threading.Event()
    found: list[Any] = []

    def callback(outputs: Any, data: Any, error: str) -> None:
        found.append((outputs[0], data, error))
        done.set()

    with tapping(tmp_path, rate=1.0) as tap:
        TappedSession(session, tap).run_async(["y"], {"x": X}, callback, 7)
        assert done.wait(60)
    ((output, data, error),) = found
    assert np.array_equal(output, session.run(None, {"x": X})[0])
    assert (data, error) == (7, "")
    assert not list(tmp_path.iterdir())


def test_a_session_that_is_shared_by_threads(session: Any, tmp_path: Path) -> None:
    """Sessions may run in many threads at once, tapped ones too: outputs belong to inputs, and every call counts."""
    wrong: list[int] = []

    def work(number: int) -> None:
        feeds = {"x": X + number}
        (expected,) = session.run(None, feeds)
        for _ in range(50):
            if not np.array_equal(tapped.run(None, feeds)[0], expected):
                wrong.append(number)

    with tapping(tmp_path, rate=1.0) as tap:
        tapped = TappedSession(session, tap)
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert sum(ledgers(tmp_path)[0]["bins"]) == 200
