"""A real daemon whose probes commit faults on demand, and what must be true of it whatever they do."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.e2e.running import INSIDE_PROBES, Line, Running, exists, running, wait_until, write_config

SOUND = "sound"
"""The model that nothing ever happens to."""
PROMPT = 5.0
"""Seconds in which the daemon answers a scrape, whatever its probes do; a few milliseconds on an idle machine."""

TIMEOUT = 5.0
"""Seconds for a request that takes milliseconds on an idle machine."""


def watched(path: Path, **more: Any) -> dict[str, Any]:
    """A model of the configuration: small limits, so that faults show soon, and as few processes as can be.

    Gates of latency are wide, so that a busy machine makes no verdict worse.
    """
    settings = {"timeout": f"{TIMEOUT:g}s", "memory": 600, "compare_outputs": False, "replays": 3}
    return {"path": path, **settings, "gate": {"cv": 1000.0, "median": "60s"}, **more}


class Faulty:
    """The daemon under test: its folder of faults, its folder for temporary files, and itself."""

    def __init__(self, folder: Path, daemon: Running) -> None:
        self.daemon = daemon
        self.faults = folder / "faults"
        self.temporary = folder / "tmp"

    def commit(self, model: str, fault: str, where: str = "Replay", stays: bool = False) -> None:
        """Have the model's probe commit ``fault`` at its next request of this kind, or at each until :meth:`mend`."""
        file = self.faults / f".{model}"
        file.write_text(f"{where} {fault}{' *' if stays else ''}")
        file.rename(self.faults / model)

    def mend(self, model: str) -> None:
        """Take a fault that stays away."""
        (self.faults / model).unlink()

    def answers(self) -> None:
        """The daemon says that it is well, and serves its metrics, at once."""
        for path in ("/healthz", "/metrics"):
            start = time.monotonic()
            assert self.daemon.get(path)[0] == 200
            assert time.monotonic() - start < PROMPT, path

    def event(self, name: str, model: str, count: int = 1) -> Line:
        """The ``count``-th event of this name; the daemon answers all the while."""

        def told() -> bool:
            self.answers()
            return len(self.daemon.told(name, model)) >= count

        wait_until(told, f"{name} of {model}")
        return self.daemon.told(name, model)[count - 1]

    def failures(self, model: str) -> dict[str, float]:
        """How many checks of the model failed, by reason; those that did not happen are left out."""
        counts = {dict(labels)["reason"]: n for labels, n in self._of("check_failures_total", model).items() if n}
        return dict(sorted(counts.items()))

    def _of(self, metric: str, model: str) -> dict[frozenset[tuple[str, str]], float]:
        return {labels: n for labels, n in self.daemon.metrics(metric).items() if ("model", model) in labels}

    def holds(self) -> tuple[int, int, int]:
        """Descriptors, threads and temporary folders of the daemon."""
        process = Path(f"/proc/{self.daemon.process.pid}")
        return len(os.listdir(process / "fd")), len(os.listdir(process / "task")), len(os.listdir(self.temporary))

    def at_rest(self) -> tuple[int, int, int]:
        """:meth:`holds` between checks and scrapes, which have descriptors of their own."""
        seen = []
        for _ in range(20):
            seen.append(self.holds())
            time.sleep(0.03)
        return min(seen)

    def zombies(self) -> set[int]:
        """The daemon's children that are dead and not reaped."""
        found: set[int] = set()
        for listing in Path(f"/proc/{self.daemon.process.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found.update(map(int, listing.read_text().split()))
        return {pid for pid in found if not exists(pid)}

    def is_as(self, before: tuple[int, int, int]) -> None:
        """Nothing is left of what has happened since."""
        wait_until(lambda: self.holds() == before and not self.zombies(), f"{before}, without zombies", 60)


@contextlib.contextmanager
def faulty(
    folder: Path, models: Mapping[str, Mapping[str, Any]], interval: str = "1s", **more: str
) -> Iterator[Faulty]:
    """A daemon that has checked each of ``models`` once; nothing of it may be left behind."""
    for name in ("faults", "tmp"):
        (folder / name).mkdir()
    more |= {"PYTHONPATH": INSIDE_PROBES, "NPUMON_TEST_FAULTS": str(folder / "faults"), "TMPDIR": str(folder / "tmp")}
    config = write_config(folder, models, interval)
    with running("run", "-c", config, **more) as daemon:
        wait_until(lambda: all(daemon.checks(model) for model in models), "the first checks")
        yield Faulty(folder, daemon)
    assert os.listdir(folder / "tmp") == []
