"""The unit under a systemd that is PID 1: readiness, restarts, limits, devices and the journal, as it promises them."""

from __future__ import annotations

import os
import re
import resource
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.checkout import ROOT
from tests.e2e.running import wait_until
from tests.systemd.board import ETC, UNIT, Board
from tests.systemd.container import booted

pytestmark = pytest.mark.systemd
RLIMIT_NICE = 13  # which Python's resource module does not name


@pytest.fixture(scope="module")
def installed(bundle: Path) -> Iterator[Board]:
    """A board with npumon on it."""
    with booted() as container:
        board = Board(container, bundle)
        board.install()
        yield board


@pytest.fixture
def board(installed: Board) -> Board:
    """The same board, its service as just installed."""
    installed.fresh()
    return installed


def deploy(board: Board, model: Path, name: str, **settings: object) -> None:
    """Configure this one model, to be checked each second."""
    board.configure({name: {"path": board.model(model, f"{name}.onnx"), **settings}})


# ---------------------------------------------------------------------------------------------- life


def test_a_start_is_over_when_the_service_answers(board: Board, good: Path) -> None:
    """`systemctl start` returns once /healthz answers, and the status line then tells address and verdicts."""
    deploy(board, good, "m")
    board.start()
    assert board.get("/healthz") == "ok\n\n"
    assert board.show("ActiveState") == "active"
    board.wait_checks("m")
    assert board.show("StatusText") == "http://127.0.0.1:10877: m healthy"


def test_a_wrong_configuration_fails_the_start_once(board: Board, good: Path) -> None:
    """The journal has the line that mends it, and systemd does not try again what only an edit mends."""
    deploy(board, good, "m", replays=1)
    assert board.container.run("systemctl", "start", "npumon").returncode == 1
    assert board.show("ExecMainStatus") == "2"
    assert board.show("ActiveState") == "failed"
    assert board.show("NRestarts") == "0"
    (said,) = [entry["MESSAGE"] for entry in board.entries() if entry.get("SYSLOG_IDENTIFIER") == "npumon"]
    assert said.startswith(f"/{ETC}/npumon.toml:")
    assert said.endswith("write replays = 30")


def test_an_address_that_the_board_gets_later_is_waited_for(board: Board, good: Path) -> None:
    """At boot the network may come up after npumon: the start fails with the line that says so, and is tried again."""
    address = "192.0.2.9"
    board.configure({"m": {"path": board.model(good, "m.onnx")}}, listen=f"{address}:10877")
    assert board.container.run("systemctl", "start", "npumon").returncode == 1
    assert board.show("ExecMainStatus") == "3"
    (said,) = [str(entry["MESSAGE"]) for entry in board.entries() if entry.get("SYSLOG_IDENTIFIER") == "npumon"]
    assert f"{address}:10877 is no address of this machine" in said
    board.container.must("ip", "address", "add", f"{address}/32", "dev", "lo")
    try:
        board.wait_restart(0)
        assert board.told("started")[0]["address"] == f"http://{address}:10877"
    finally:
        board.container.must("ip", "address", "delete", f"{address}/32", "dev", "lo")


def test_a_key_for_root_alone_is_shared_by_a_group(board: Board, good: Path, tmp_path: Path) -> None:
    """The line names the file and the setting; with one group for both, as it says, the service has TLS."""
    pair = Authority(tmp_path).issue("board")
    folder = board.root / ETC / "tls"
    folder.mkdir(exist_ok=True)
    for file in pair:
        shutil.copy(file, folder)
    key = folder / "board.key"
    key.chmod(0o600)
    head = ["[web]", f'tls_cert = "/{ETC}/tls/board.crt"', f'tls_key = "/{ETC}/tls/board.key"']
    board.configure({"m": {"path": board.model(good, "m.onnx")}}, head=head)
    assert board.container.run("systemctl", "start", "npumon").returncode == 1
    (said,) = [str(entry["MESSAGE"]) for entry in board.entries() if entry.get("SYSLOG_IDENTIFIER") == "npumon"]
    mend = "give the file and the service one group (SupplementaryGroups= in a drop-in of the unit)"
    assert said.endswith(f"web.tls_key: /{ETC}/tls/board.key: Permission denied; {mend}")
    board.container.must("groupadd", "--system", "--force", "npumon-tls")
    board.container.must("chgrp", "npumon-tls", f"/{ETC}/tls/board.key")
    board.container.must("chmod", "640", f"/{ETC}/tls/board.key")
    board.drop_in("SupplementaryGroups=npumon-tls")
    board.start()
    assert board.told("started")[0]["address"] == "https://127.0.0.1:10877"


def test_a_daemon_that_dies_is_back_and_its_probe_was_not_cut_short(board: Board, slow: Path) -> None:
    """After kill -9 in mid-inference the probe finishes it and leaves by itself; then systemd starts anew."""
    deploy(board, slow, "slow", replays=3, timeout="60s")
    board.note_exits()
    board.start()
    before, probe = board.main, board.in_mid_inference()
    board.container.must("kill", "-KILL", str(before))
    board.wait_restart(before)
    assert board.show("NRestarts") == "1"
    assert board.exit_of(probe) == "0"
    assert not (board.root / f"proc/{probe}").exists()
    board.wait_checks("slow")


def test_sigterm_lets_the_running_inference_end(board: Board, slow: Path) -> None:
    """`systemctl stop` in mid-inference ends well: the daemon with 0, the probe by itself, nothing is killed."""
    deploy(board, slow, "slow", replays=3, timeout="60s")
    board.note_exits()
    board.start()
    probe = board.in_mid_inference()
    board.container.must("systemctl", "stop", "npumon")
    assert board.show("Result") == "success"
    assert board.show("ExecMainStatus") == "0"
    assert board.exit_of(probe) == "0"
    assert len(board.told("stopped")) == 1
    assert not [entry for entry in board.entries() if "Killing process" in str(entry["MESSAGE"])]


def test_a_stopped_daemon_is_restarted_by_the_watchdog(board: Board, good: Path) -> None:
    """A daemon that does not run any more (SIGSTOP) is noticed, ended and replaced."""
    deploy(board, good, "m")
    board.drop_in("WatchdogSec=3")
    board.start()
    board.wait_checks("m")
    before = board.main
    board.container.must("kill", "-STOP", str(before))
    board.wait_restart(before)
    assert [entry for entry in board.entries() if "Watchdog timeout" in str(entry["MESSAGE"])]
    board.wait_checks("m")


@pytest.fixture
def hung(board: Board) -> Iterator[Path]:
    """A folder on the board whose file system has stopped answering, as a network share whose server is gone.

    The board's kernel asks a FUSE server, which is this process, and it never answers.
    """
    folder = board.root / "opt/share"
    folder.mkdir(exist_ok=True)
    yield folder
    board.container.run("umount", "--lazy", "--force", "/opt/share")
    shutil.rmtree(folder)


MOUNT = """
import ctypes, os, sys
options = f"fd={sys.argv[1]},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
libc = ctypes.CDLL(None, use_errno=True)
sys.exit(libc.mount(b"share", b"/opt/share", b"fuse", 0, options) and ctypes.get_errno())
"""


def test_a_stuck_schedule_is_restarted_by_the_watchdog(board: Board, good: Path, hung: Path) -> None:
    """A check that hangs where no timeout reaches starves the watchdog, although the daemon itself is alive.

    The model's file system stops answering between two checks, and the schedule's worker with it, in the kernel.
    """
    (hung / "m.onnx").write_bytes(good.read_bytes())
    board.configure({"m": {"path": "/opt/share/m.onnx", "timeout": "100ms"}})
    board.drop_in("WatchdogSec=2\nTimeoutAbortSec=3")
    board.start()
    board.wait_checks("m")
    before = board.main
    server = os.open("/dev/fuse", os.O_RDWR)
    mount = board.container.command("python3", "-c", MOUNT, str(server))
    subprocess.run(mount, pass_fds=[server], check=True)
    wait_until(lambda: bool(board.told("service_stuck")), "the daemon notices", 120)
    assert board.main == before
    wait_until(lambda: board.main not in (0, before), "a restart", 60)
    assert [entry for entry in board.entries() if "Watchdog timeout" in str(entry["MESSAGE"])]
    os.close(server)  # now every access fails at once, which is a failed check
    board.wait("check_failed")
    board.container.must("umount", "--lazy", "/opt/share")
    board.configure({"m": {"path": "/opt/share/m.onnx"}})  # in 100 ms a busy machine does not open a session
    board.container.must("systemctl", "reload", "npumon")
    board.wait("check_recovered")


def test_reload(board: Board, good: Path) -> None:
    """`systemctl reload` takes the new file; a wrong one changes nothing and says so at warning or above."""
    deploy(board, good, "m")
    board.start()
    before = board.main
    board.configure({"m": {"path": "/opt/models/m.onnx"}, "n": {"path": "/opt/models/m.onnx"}})
    board.container.must("systemctl", "reload", "npumon")
    assert board.wait("config_reloaded")["added"] == ["n"]
    deploy(board, good, "m", replays=1)
    board.container.must("systemctl", "reload", "npumon")
    assert board.wait("config_not_reloaded")["PRIORITY"] <= 4
    board.wait_checks("n")
    assert board.main == before


# ---------------------------------------------------------------------------------------------- journal


def test_the_journal_has_the_events_by_priority(board: Board, selu: Path) -> None:
    """`journalctl -p warning` shows the fallback with its ops, as an entry of its level, and no routine."""
    deploy(board, selu, "m", options={"soc_model": "58"}, gate={"npu_flops": 0.99})
    board.start()
    event = board.wait("fallback_detected")
    assert event["PRIORITY"] == {"warning": 4, "error": 3}[event["level"]]
    assert [op["node"] for op in event["ops"]] == ["selu"]
    (started,) = board.told("started")
    assert started["PRIORITY"] == 6
    loud = [str(entry["MESSAGE"]) for entry in board.journal("--priority=warning")]
    assert any(f'"id":"{event["id"]}"' in message for message in loud)
    assert not any('"event":"started"' in message for message in loud)


# ---------------------------------------------------------------------------------------------- limits

WRITABLE = """
import json, os, tempfile
found = []
for top, folders, _ in os.walk("/"):
    folders[:] = [] if top in ("/proc", "/sys") or top.count("/") > 4 else folders
    try:
        tempfile.TemporaryFile(dir=top).close()
        found.append(os.path.realpath(top))
        folders[:] = []
    except OSError:
        pass
print(json.dumps(sorted(set(found))))
"""


def test_it_can_write_to_its_state_and_nothing_else(board: Board) -> None:
    """Of the whole file system, besides memory and what goes with the service, only its own state is open."""
    found = set(board.inside_the_unit(WRITABLE))
    assert found - {"/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue"} == {"/var/lib/private/npumon"}
    mode = (board.root / "var/lib/private/npumon").stat().st_mode
    assert stat.S_IMODE(mode) == 0o700


def test_a_probe_that_takes_too_much_memory_is_ended_alone(board: Board, good: Path) -> None:
    """MemoryMax= ends the probe; the check fails with the reason, the daemon goes on, and recovers with more memory."""
    deploy(board, good, "m")
    board.drop_in("MemoryMax=140M")
    board.start()
    before = board.main
    failed = board.wait("check_failed")
    assert failed["error"]["reason"] == "probe_crashed"
    assert "died of SIGKILL" in failed["error"]["detail"]
    assert "out-of-memory killer" in failed["error"]["mend"]
    board.drop_in("MemoryMax=1G")
    board.wait("check_recovered")
    assert board.main == before
    assert board.show("NRestarts") == "0"


BURN = """
import json, time
start, used = time.monotonic(), time.process_time()
while time.monotonic() - start < 4: pass
print(json.dumps((time.process_time() - used) / (time.monotonic() - start)))
"""


def test_a_quota_in_a_drop_in_holds(board: Board) -> None:
    """CPUQuota=20% gives a program that wants all of a processor about a fifth of it."""
    assert 0.1 < board.inside_the_unit(BURN, "CPUQuota=20%") < 0.3


OPEN = """
import errno, json, os
def attempt(node):
    try:
        os.close(os.open(node, os.O_RDWR))
    except OSError as error:
        return errno.errorcode[error.errno]
    return "opened"
print(json.dumps({node: attempt(node) for node in %r}))
"""


LOCAL = 60  # a major number that no driver has, for local use (the kernel's admin-guide/devices.txt)


def test_only_the_accelerators_nodes_can_be_opened(board: Board) -> None:
    """Each node that the unit names is open to the service; others with the same file mode are not, nor is memory.

    The heaps' class exists, and is asked for, only where the kernel has CONFIG_DMABUF_HEAPS.
    """
    unit = (board.root / UNIT).read_text()
    named = re.findall(r"^DeviceAllow=(/dev/\S+) rw$", unit, re.MULTILINE)
    classes = re.findall(r"^DeviceAllow=char-(\S+) rw$", unit, re.MULTILINE)
    assert len(named) + len(classes) == unit.count("\nDeviceAllow=")
    assert "/dev/fastrpc-cdsp" in named
    majors = {
        name: int(major) for major, name in re.findall(r"^ *(\d+) (\S+)$", Path("/proc/devices").read_text(), re.M)
    }
    opened = {node: (LOCAL, minor) for minor, node in enumerate(named)}
    opened |= {f"/dev/{name}-test": (majors[name], 250) for name in classes if name in majors}
    refused = {"/dev/fastrpc-adsp": (LOCAL, 200), "/dev/mem": (1, 1)}
    for node, number in (opened | refused).items():
        file = board.root / node.removeprefix("/")
        file.unlink(missing_ok=True)
        os.mknod(file, stat.S_IFCHR | 0o666, os.makedev(*number))
        file.chmod(0o666)
    seen = board.inside_the_unit(OPEN % [*opened, *refused, "/dev/null"])
    for node in opened | refused:
        (board.root / node.removeprefix("/")).unlink()
    led = dict.fromkeys(opened, "ENXIO")  # what may be opened leads nowhere, without a driver behind it
    assert seen == led | dict.fromkeys(refused, "EPERM") | {"/dev/null": "opened"}


NICE = """
import json, os
low = os.nice(10)
os.setpriority(os.PRIO_PROCESS, 0, 0)
back = os.getpriority(os.PRIO_PROCESS, 0)
try:
    os.setpriority(os.PRIO_PROCESS, 0, -1)
    above = "allowed"
except PermissionError:
    above = "refused"
print(json.dumps([os.getuid() != 0, low, back, above]))
"""


def may_raise_limits() -> bool:
    """Whether root may raise a limit here; in some sandboxes it may not, and systemd neither."""
    try:
        resource.setrlimit(RLIMIT_NICE, (20, 20))
    except ValueError:
        return False
    return True


def test_the_limit_on_niceness_is_zero(board: Board) -> None:
    """The unit means nice 0 to systemd, which setrlimit(2) calls 20."""
    assert board.show("LimitNICE") == "20"


@pytest.mark.skipif(not may_raise_limits(), reason="root has no CAP_SYS_RESOURCE here, so no limit can be raised")
def test_niceness_can_be_lowered_and_taken_back(board: Board) -> None:
    """Without privileges the service steps back to nice 10 and returns to 0 for its replays, but not above."""
    assert board.inside_the_unit(NICE) == [True, 10, 0, "refused"]


def test_commands_of_root_do_not_lock_the_service_out(board: Board, good: Path) -> None:
    """`npumon events` and `baseline` by root, before and while it runs, leave a state that the service can write."""
    deploy(board, good, "m")
    config = ("-c", f"/{ETC}/npumon.toml")
    board.start()
    board.wait_checks("m")
    board.container.must("systemctl", "stop", "npumon")
    for _ in ("stopped", "running"):
        board.container.must("/opt/npumon/bin/npumon", "events", *config)
        board.container.must("/opt/npumon/bin/npumon", "baseline", "show", *config)
        board.container.must("/opt/npumon/bin/npumon", "baseline", "forget", *config, "m")
        board.start()
        board.wait_checks("m", more=2)
    assert board.metric("state_write_failures_total") == 0
    assert not board.told("state_not_written")


def test_the_installed_unit_has_systemds_own_tools_approval(board: Board) -> None:
    """On the board it is valid, and its exposure is at most 1.6 of 10: what its comment and docs/reliability.md say."""
    board.container.must("systemd-analyze", "verify", "--man=no", "--recursive-errors=yes", "npumon.service")
    analyze = ["systemd-analyze", "security", "--threshold=16", "--no-pager", "npumon.service"]
    (figure,) = re.findall(r"Overall exposure level for npumon\.service: (\S+)", board.container.must(*analyze))
    assert re.findall(r"`systemd-analyze security` counts them as (\S+) of 10", (board.root / UNIT).read_text()) == [
        figure
    ]
    page = (ROOT / "docs/reliability.md").read_text()
    assert re.findall(r"`systemd-analyze security` gives (\S+)", page) == [figure]
