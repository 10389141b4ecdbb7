"""The real command as a process of its own, watched as its users see it: stdout, stderr, exit code, HTTP, children.

Every line of a daemon's log is parsed, and every event among them is validated against the contract's JSON Schema, in
each test that runs a daemon, whatever else the test is about.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
from prometheus_client.parser import text_string_to_metric_families

from monitor.outputs import events

ROOT = Path(__file__).parents[2]
INSIDE_PROBES = str(Path(__file__).with_name("inside_probes"))
"""A folder for PYTHONPATH, see ``sitecustomize.py`` in it."""
COMMAND = (sys.executable, "-m", "monitor")
SCHEMA = jsonschema.Draft202012Validator(events.schema())
NAMES = frozenset(events.schema()["properties"]["event"]["enum"])
PATIENCE = 90.0
"""Seconds to wait for what happens in a few on an idle machine."""

Line = dict[str, Any]


def environment(**more: str) -> dict[str, str]:
    """The tests' environment, in which the checkout can be imported from anywhere."""
    path = os.pathsep.join(filter(None, [more.pop("PYTHONPATH", ""), str(ROOT)]))
    return os.environ | {"PYTHONPATH": path, "ORT_DISABLE_TELEMETRY": "1", **more}


def free_port() -> int:
    """A port of the loopback that nobody listens on; the configuration has no port 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Done(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str


def npumon(*arguments: str | Path, cwd: Path | None = None, **more: str) -> Done:
    """Run one command to its end, without a terminal; whatever it did, no traceback may have reached the user."""
    command = [*COMMAND, *map(str, arguments)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=cwd, env=environment(**more), timeout=300
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


class Terminal:
    """A command whose stdout and stderr are a terminal each, 100 columns wide."""

    def __init__(self, *arguments: str | Path) -> None:
        self.out = self.err = ""
        self._ends: dict[int, str] = {}
        slaves = []
        for name in ("out", "err"):
            master, slave = pty.openpty()
            self._ends[master] = name
            slaves.append(slave)
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=slaves[0],
            stderr=slaves[1],
            env=environment(COLUMNS="100", TERM="xterm"),
            start_new_session=True,
            # As a shell at a terminal starts it; what runs the tests may ignore the signal, which would be inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        for slave in slaves:
            os.close(slave)

    def read(self, until: Callable[[], bool] = lambda: False) -> None:
        """Read what it prints until it has closed both terminals, or ``until`` holds."""
        deadline = time.monotonic() + PATIENCE
        while self._ends and not until() and time.monotonic() < deadline:
            ready, _, _ = select.select(list(self._ends), [], [], 0.5)
            for master in ready:
                try:
                    text = os.read(master, 65536).decode()
                except OSError:  # the other end is closed
                    del self._ends[master]
                    os.close(master)
                    continue
                setattr(self, self._ends[master], getattr(self, self._ends[master]) + text)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Signal it, read the rest; the exit code."""
        self.process.send_signal(number)
        self.read()
        return self.process.wait(PATIENCE)


class Running:
    """A command that runs until it is told to end: ``run`` or ``demo``, with the environment variables ``more``.

    ``within`` is a command that becomes the one behind it, such as ``unshare``.
    """

    def __init__(self, *arguments: str | Path, within: Sequence[str] = (), **more: str) -> None:
        self.address = ""
        self.lines: list[Line] = []
        self.defects: list[str] = []
        self.err = ""
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            [*within, *COMMAND, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**more),
            start_new_session=True,
        )
        self._readers = [threading.Thread(target=reader, daemon=True) for reader in (self._read_out, self._read_err)]
        for reader in self._readers:
            reader.start()

    # -------------------------------------------------------------------------------------------- its log

    def _read_out(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as out:
            for text in out:
                with self._news:
                    self._take(text)
                    self._news.notify_all()

    def _take(self, text: str) -> None:
        try:
            line = json.loads(text)
            if line["event"] in NAMES:
                SCHEMA.validate(line)
            self.lines.append(line)
        except (ValueError, KeyError, jsonschema.ValidationError) as error:
            self.defects.append(f"{error}\n{text}")

    def _read_err(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as err:
            self.err = err.read()

    def told(self, event: str, model: str | None = None) -> list[Line]:
        """The lines of this name so far, about ``model`` if given."""
        with self._news:
            lines = list(self.lines)
        return [line for line in lines if line["event"] == event and model in (None, line.get("model"))]

    def wait(self, event: str, model: str | None = None, count: int = 1) -> Line:
        """The ``count``-th line of this name, once it has come."""
        deadline = time.monotonic() + PATIENCE
        while len(found := self.told(event, model)) < count:
            over = self.process.poll() is not None
            if over:
                self._readers[0].join()
            with self._news:
                seen = [(line["event"], line.get("model")) for line in self.lines]
                timely = not over and time.monotonic() < deadline
                assert timely, f"no {event} of {model}: {seen} {self.err}"
                self._news.wait(0.2)
        return found[count - 1]

    # -------------------------------------------------------------------------------------------- its web server

    def get(self, path: str) -> tuple[int, str]:
        """Status and body."""
        try:
            with urllib.request.urlopen(self.address + path, timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str, **labels: str) -> float | None:
        """The value of ``npumon_<name>`` with exactly these labels; ``None`` if it is not exported."""
        return self.metrics(name).get(frozenset(labels.items()))

    def metrics(self, name: str) -> dict[frozenset[tuple[str, str]], float]:
        """All values of ``npumon_<name>`` by their labels."""
        status, text = self.get("/metrics")
        assert status == 200
        # Parsing all of it dozens of times a second would take the processor from the daemon.
        lines = [line for line in text.splitlines(keepends=True) if re.match(rf"npumon_{name}[ {{]", line)]
        families = text_string_to_metric_families("".join(lines))
        return {frozenset(sample.labels.items()): sample.value for family in families for sample in family.samples}

    def checks(self, model: str) -> float:
        """How many checks of ``model`` are over."""
        return self.metric("checks_total", model=model) or 0.0

    def wait_checks(self, *models: str, more: int = 1) -> None:
        """Wait until each of ``models`` has been checked ``more`` times from now on."""
        goals = {model: self.checks(model) + more for model in models}

        def done() -> bool:
            checks = self.metrics("checks_total")
            return all(checks.get(frozenset({("model", model)}), 0) >= goal for model, goal in goals.items())

        wait_until(done, f"checks of {models}")

    # -------------------------------------------------------------------------------------------- its processes

    def reload(self, event: str = "config_reloaded") -> Line:
        """Have it read its configuration again; the line that says what came of it."""
        count = len(self.told(event)) + 1
        self.process.send_signal(signal.SIGHUP)
        return self.wait(event, count=count)

    def children(self) -> set[int]:
        """The ids of its living child processes."""
        return children(self.process.pid)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal it and wait; the exit code. All that it said must have been right, and nothing of it may be left."""
        left = self.children()
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        self.check_words()
        assert not {pid for pid in left if exists(pid)}
        return code

    def check_cut(self) -> None:
        """As :meth:`check_words`, but for the last line, which SIGKILL may have cut off."""
        for reader in self._readers:
            reader.join(PATIENCE)
        assert not [defect for defect in self.defects if defect.endswith("\n")]
        assert "Traceback" not in self.err

    def check_words(self) -> None:
        """Every line was JSON, every event met the schema, and stderr was silent."""
        for reader in self._readers:
            reader.join(PATIENCE)
        assert not self.defects
        assert "Traceback" not in self.err


@contextlib.contextmanager
def running(*arguments: str | Path, within: Sequence[str] = (), **more: str) -> Iterator[Running]:
    """A daemon for a ``with`` block, from its ``started`` line on; it is stopped at the end if it still runs."""
    daemon = Running(*arguments, within=within, **more)
    try:
        daemon.address = daemon.wait("started")["address"]
        yield daemon
        if daemon.process.poll() is None:
            assert daemon.stop() == 0
    finally:
        if daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()


def children(parent: int) -> set[int]:
    """Child processes as the kernel lists them, without those that are dead and not yet reaped."""
    pids: set[int] = set()
    for listing in Path(f"/proc/{parent}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            pids.update(map(int, listing.read_text().split()))
    return {pid for pid in pids if exists(pid)}


def exists(pid: int) -> bool:
    """Whether the process runs, sleeps or is stopped: not gone, and not dead and unreaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Poll ``condition`` until it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)


def write_config(
    folder: Path,
    models: Mapping[str, Mapping[str, Any]],
    interval: str = "2s",
    options: Mapping[str, str] | None = None,
    head: Sequence[str] = (),
    listen: str = "",
) -> Path:
    """A configuration in ``folder``: soc_model 60, few replays, a CV gate that a busy machine passes, no budget.

    ``listen`` is a free port by default; to write the configuration again for a reload, pass it on.
    """
    runtime = {"soc_model": "60"} if options is None else options
    listen = listen or f"127.0.0.1:{free_port()}"
    lines = ["[monitor]", f'listen = "{listen}"', 'state = "state"', f'interval = "{interval}"', "max_duty = 1.0"]
    lines += ["[runtime.options]", *(f"{key} = {json.dumps(value)}" for key, value in runtime.items()), *head]
    for name, settings in models.items():
        lines += ["[[models]]", f'name = "{name}"']
        settings = {"replays": 5, **settings}
        gate = {"cv": 1000.0, **settings.pop("gate", {})}
        lines += [f"{key} = {_toml(value)}" for key, value in settings.items()]
        lines += ["[models.gate]", *(f"{key} = {_toml(value)}" for key, value in gate.items())]
    file = folder / "npumon.toml"
    file.write_text("\n".join(lines) + "\n")
    return file


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(str(value) if isinstance(value, Path) else value)
