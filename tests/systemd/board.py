"""npumon on a booted board: installed from a bundle, configured, started by systemd, and watched through its tools."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.e2e.running import INSIDE_PROBES, Line, wait_until, write_config
from tests.systemd.container import Container, Done

LISTEN = "127.0.0.1:10877"
ETC = "etc/npumon"
UNIT = "etc/systemd/system/npumon.service"
STATE = "/var/lib/npumon"
DROP_IN = "run/systemd/system/npumon.service.d/test.conf"


class Board:
    """What a board engineer does and sees, on the board ``container`` with a ``bundle`` unpacked in /opt/bundle."""

    def __init__(self, container: Container, bundle: Path) -> None:
        self.container = container
        self.root = container.root
        shutil.copytree(bundle, self.root / "opt/bundle", symlinks=True)
        self._cursor = ""

    # ------------------------------------------------------------------------------------------ what one does

    def installer(self, action: str, bundle: str = "bundle", **more: str) -> Done:
        """Run install.sh of a bundle in /opt."""
        return self.container.run("sh", f"/opt/{bundle}/install.sh", action, **more)

    def install(self, **more: str) -> str:
        """Install the bundle, which works; what the installer says."""
        done = self.installer("install", **more)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        return done.stdout

    def model(self, file: Path, name: str) -> str:
        """Deploy a model; its path on the board."""
        folder = self.root / "opt/models"
        folder.mkdir(exist_ok=True)
        shutil.copy(file, folder / name)
        return f"/opt/models/{name}"

    def configure(
        self,
        models: Mapping[str, Mapping[str, Any]],
        interval: str = "1s",
        head: Sequence[str] = (),
        listen: str = LISTEN,
    ) -> None:
        """Write /etc/npumon/npumon.toml."""
        file = write_config(self.root / ETC, models, interval, head=head, listen=listen)
        file.write_text(file.read_text().replace('state = "state"', f'state = "{STATE}"'))

    def drop_in(self, text: str) -> None:
        """Override the unit, as `systemctl edit --runtime npumon` does; nothing for the unit as it is."""
        file = self.root / DROP_IN
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"[Service]\n{text}\n")
        self.container.must("systemctl", "daemon-reload")

    def note_exits(self) -> None:
        """Have each probe that leaves by itself write its exit code into the state directory."""
        shutil.copytree(INSIDE_PROBES, self.root / "opt/inside", dirs_exist_ok=True)
        text = f"PYTHONPATH=/opt/inside\nNPUMON_TEST_EXITS={STATE}\n"
        (self.root / ETC / "environment").write_text(text)

    def start(self) -> None:
        """Start the service, which becomes ready."""
        self.container.must("systemctl", "start", "npumon")

    def fresh(self) -> None:
        """The service as just installed: stopped, without drop-ins and state; the journal is read from here on."""
        self.container.must("systemctl", "stop", "npumon")
        self.container.must("rm", "-rf", STATE, "/var/lib/private/npumon", f"/{ETC}/environment", f"/{DROP_IN}")
        self.container.must("systemctl", "daemon-reload")
        self.container.run("systemctl", "reset-failed", "npumon")
        self.container.must("logger", "--tag", "test", "fresh")
        last = json.loads(self.container.must("journalctl", "--lines=1", "--output=json"))
        self._cursor = last["__CURSOR"]

    def inside_the_unit(self, program: str, text: str = "") -> Any:
        """Run Python in place of the daemon, with the unit's restrictions and the overrides ``text``; its JSON."""
        (self.root / "opt/program.py").write_text(program)
        python = self.container.must("readlink", "/opt/npumon/bin/npumon").strip().replace("bin/npumon", "bin/python")
        self.drop_in(f"Type=oneshot\nRestart=no\nExecStart=\nExecStart={python} /opt/program.py\n{text}")
        done = self.container.run("systemctl", "start", "npumon")
        self.container.must("journalctl", "--sync")
        said = [str(entry["MESSAGE"]) for entry in self.entries() if entry.get("SYSLOG_IDENTIFIER") == "npumon"]
        assert done.returncode == 0, said
        return json.loads(said[-1])

    # ------------------------------------------------------------------------------------------- what one sees

    def show(self, name: str) -> str:
        """A property of the unit."""
        return self.container.must("systemctl", "show", "--value", f"--property={name}", "npumon").strip()

    @property
    def main(self) -> int:
        """The daemon's process, as numbered on the board; 0 if there is none."""
        return int(self.show("MainPID"))

    def probes(self) -> list[int]:
        """The daemon's children."""
        listings = (self.root / f"proc/{self.main}/task").glob("*/children")
        return sorted(int(pid) for listing in listings for pid in listing.read_text().split())

    def cpu(self, pid: int) -> int:
        """Processor time of a process so far, in ticks of 10 ms."""
        fields = (self.root / f"proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def in_mid_inference(self) -> int:
        """The one probe, in the midst of an inference of about half a second."""
        self.wait_checks("slow")
        (pid,) = self.probes()
        used = self.cpu(pid)
        wait_until(lambda: self.cpu(pid) > used + 20, "the probe computes")
        return pid

    def exit_of(self, probe: int) -> str:
        """What the probe noted when it left; raises if it was killed."""
        return (self.root / "var/lib/private/npumon" / str(probe)).read_text()

    def entries(self) -> list[dict[str, Any]]:
        """The journal's entries about npumon since :meth:`fresh`."""
        return self.journal(*([f"--after-cursor={self._cursor}"] if self._cursor else []))

    def journal(self, *arguments: str) -> list[dict[str, Any]]:
        """What `journalctl -u npumon` shows."""
        lines = self.container.must("journalctl", "--unit=npumon", "--output=json", *arguments).splitlines()
        return [json.loads(line) for line in lines]

    def told(self, event: str) -> list[Line]:
        """The daemon's own lines of this name, with journald's priority in ``PRIORITY``."""
        lines = []
        for entry in self.entries():
            if str(entry["MESSAGE"]).startswith("{"):
                lines.append(json.loads(entry["MESSAGE"]) | {"PRIORITY": int(entry["PRIORITY"])})
        return [line for line in lines if line["event"] == event]

    def wait(self, event: str, count: int = 1) -> Line:
        """The ``count``-th line of this name, once it has come."""
        wait_until(lambda: len(self.told(event)) >= count, event)
        return self.told(event)[count - 1]

    def get(self, path: str) -> str:
        """A page of the daemon; nothing while it does not answer."""
        program = f"import urllib.request as r; print(r.urlopen('http://{LISTEN}{path}', timeout=10).read().decode())"
        return self.container.run("python3", "-c", program).stdout

    def metric(self, name: str) -> float | None:
        """A value by its name and labels as /metrics writes them, without the prefix."""
        lines = self.get("/metrics").splitlines()
        values = [line.rpartition(" ")[2] for line in lines if line.startswith(f"npumon_{name} ")]
        return float(values[0]) if values else None

    def wait_checks(self, model: str, more: int = 1) -> None:
        """Wait until the model has been checked ``more`` times from now on."""
        name = f'checks_total{{model="{model}"}}'
        goal = (self.metric(name) or 0.0) + more
        wait_until(lambda: (self.metric(name) or 0.0) >= goal, f"checks of {model}")

    def wait_restart(self, before: int) -> None:
        """Wait until systemd has put another daemon in the place of process ``before``, and it is ready."""
        wait_until(lambda: self.main not in (0, before) and self.show("ActiveState") == "active", "a restart")
