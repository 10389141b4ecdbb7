"""An example application: processes that feed a real session and tell a tap of each call, as docs/capture.md shows.

``python -m tests.capture.application MODEL SAMPLES`` makes 10,000 calls in each of two processes. Every input tells by
its first values which call it was of: process, number, and whether it was made slow on purpose. ``--wrapped`` uses a
``TappedSession``. It prints JSON: exit codes, and the seconds that an offer took on average.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from monitor.capture import InputTap, TappedSession

SLOW_SHARE = 0.05
SLOWER = 0.005
"""Seconds by which a call is slow on purpose: a fallback that the input brings about would look like this."""


class Outbox(Protocol):
    def put(self, item: Any, /) -> None:
        """Send."""


def main() -> None:
    """Start the processes, wait for them, tell what they told."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("samples", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--start", choices=("spawn", "fork"), default="spawn")
    parser.add_argument("--wrapped", action="store_true")
    options = parser.parse_args()
    context = multiprocessing.get_context(options.start)
    outbox: multiprocessing.SimpleQueue[dict[str, float]] = context.SimpleQueue()
    work = _wrapped if options.wrapped else _plain
    arguments = (options.model, options.samples, options.calls, outbox)
    workers = [context.Process(target=work, args=(number, *arguments)) for number in range(options.processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(json.dumps({"exit": [worker.exitcode for worker in workers], "told": [outbox.get() for _ in workers]}))


def _session(model: Path) -> Any:
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    return ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])


def _plain(process: int, model: Path, samples: Path, calls: int, outbox: Outbox) -> None:
    session = _session(model)
    image = _image(session)
    tap = InputTap(samples)
    source = random.Random(process)
    offering = 0.0
    for call in range(calls):
        slow = source.random() < SLOW_SHARE
        image.flat[:3] = process, call, slow
        feeds = {"image": image}

        start = time.perf_counter()
        session.run(None, feeds)
        if slow:
            time.sleep(SLOWER)
        end = time.perf_counter()
        tap.offer(feeds, end - start)

        offering += time.perf_counter() - end
    outbox.put({"offer": offering / calls})


def _wrapped(process: int, model: Path, samples: Path, calls: int, outbox: Outbox) -> None:
    session = TappedSession(_session(model), InputTap(samples, rate=0.03))
    image = _image(session)
    for call in range(calls):
        image.flat[:3] = process, call, 0
        session.run(None, {"image": image})
        time.sleep(0.001)  # an application has other things to do, too
    outbox.put({})


def _image(session: Any) -> np.ndarray[Any, Any]:
    (image,) = session.get_inputs()
    return np.zeros(image.shape, np.float32)


if __name__ == "__main__":
    main()
