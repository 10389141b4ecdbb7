"""The machine's own Debian under a systemd that is really PID 1, in a container that forgets everything.

Its root is an overlay of the machine's, on memory: nothing is downloaded, nothing here is changed, and it boots in
half a second. Cgroups enforce in it, so that limits end processes as they do on a board.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.running import children, wait_until

CONTROLLERS = ("cpu", "cpuacct", "memory", "devices", "pids")
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}

Done = subprocess.CompletedProcess[str]


class Container:
    """A booted systemd. ``root`` is its file system, with its own /proc, /run and /dev, as seen from here."""

    def __init__(self, leader: int) -> None:
        self._enter = ["nsenter", "-t", str(leader), "-m", "-u", "-i", "-p", "-n", "-C"]
        self.root = Path(f"/proc/{leader}/root")

    def command(self, *command: str | Path) -> list[str]:
        """The command as one that this machine can run."""
        return [*self._enter, *map(str, command)]

    def run(self, *command: str | Path, **more: str) -> Done:
        """Run it to its end, as root and with the environment variables ``more``."""
        return subprocess.run(
            self.command(*command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=_ENVIRONMENT | more,
            timeout=300,
            check=False,
        )

    def must(self, *command: str | Path, **more: str) -> str:
        """Run what cannot fail; its stdout."""
        done = self.run(*command, **more)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout


@contextlib.contextmanager
def booted() -> Iterator[Container]:
    """A container for a ``with`` block."""
    with tempfile.TemporaryDirectory(prefix="npumon-systemd-") as folder, contextlib.ExitStack() as undo:
        root = _root(Path(folder), undo)
        groups = _groups(undo)
        # Registered nowhere; without groups of its own (cgroup v2) this machine's systemd has to give it a scope.
        options = ["--register=no", "--private-network", "--console=pipe", *(["--keep-unit"] if groups else [])]
        console = undo.enter_context(open(Path(folder) / "console", "wb"))
        nspawn = subprocess.Popen(
            ["sh", "-c", 'for group; do echo $$ >"$group/cgroup.procs"; done; exec $NSPAWN', "sh", *groups],
            env=os.environ | {"NSPAWN": f"systemd-nspawn --directory={root} --boot {' '.join(options)}"},
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        undo.callback(_end, nspawn)
        wait_until(lambda: bool(children(nspawn.pid)) or nspawn.poll() is not None, "the container's PID 1", 20)
        said = (Path(folder) / "console").read_text(errors="replace")
        assert nspawn.poll() is None, f"systemd-nspawn: {said}"
        container = Container(min(children(nspawn.pid)))
        undo.callback(container.run, "systemctl", "poweroff")
        wait_until(lambda: _is_up(container), "systemd is up", 90)
        if groups:
            for name in CONTROLLERS:
                container.must("mount", "-o", "remount,bind,rw", f"/sys/fs/cgroup/{name}")
            container.must("systemctl", "daemon-reexec")
        yield container


def _root(folder: Path, undo: contextlib.ExitStack) -> Path:
    """An overlay of / without what this machine starts at boot, nor what it was installed with."""
    _mount(undo, folder, "-t", "tmpfs", "-o", "size=4g", "tmpfs")
    upper, work, root = (folder / name for name in ("upper", "work", "root"))
    for path in (upper, work, root):
        path.mkdir()
    _mount(undo, root, "-t", "overlay", "-o", f"lowerdir=/,upperdir={upper},workdir={work}", "overlay")
    for wanted in (root / "etc/systemd/system").glob("*.wants/*"):
        wanted.unlink()
    (root / "etc/machine-id").write_text("")
    return root


def _mount(undo: contextlib.ExitStack, where: Path, *arguments: str) -> None:
    subprocess.run(["mount", *arguments, str(where)], check=True)
    undo.callback(subprocess.run, ["umount", "--lazy", str(where)], check=False)


def _groups(undo: contextlib.ExitStack) -> list[str]:
    """A cgroup below this process's own for each controller of cgroup v1; none where v2 has them."""
    groups = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, here = line.split(":", 2)
        for name in set(names.split(",")) & set(CONTROLLERS):
            group = Path(f"/sys/fs/cgroup/{name}{here.rstrip('/')}/npumon-{os.getpid()}-{time.monotonic_ns()}")
            group.mkdir()
            undo.callback(_remove_group, group)
            groups.append(str(group))
    return groups


def _remove_group(group: Path) -> None:
    for path in sorted([group, *(path for path in group.rglob("*") if path.is_dir())], reverse=True):
        path.rmdir()


def _is_up(container: Container) -> bool:
    return container.run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded")


def _end(nspawn: subprocess.Popen[bytes]) -> None:
    try:
        nspawn.wait(30)
    except subprocess.TimeoutExpired:
        for leader in children(nspawn.pid):  # PID 1 takes all others with it; it would outlive nspawn
            os.kill(leader, signal.SIGKILL)
        nspawn.wait()
