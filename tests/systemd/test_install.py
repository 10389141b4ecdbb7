"""Installing, upgrading and removing npumon as the README says, on a board with Python, systemd and no internet."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import checkout
from tests.systemd.board import ETC, UNIT, Board
from tests.systemd.container import Done, booted

pytestmark = pytest.mark.systemd
HOME = "opt/npumon/lib/npumon"
PYTHON = "/usr/bin/python3"


@pytest.fixture
def board(clean: Board) -> Iterator[Board]:
    """A board without npumon."""
    yield clean
    clean.installer("uninstall", PURGE="1")


Make = Callable[..., Done]


@pytest.fixture(scope="module")
def make(clean: Board) -> Make:
    """Runs `make` in a checkout on the board, /opt/checkout, with the tests' environment, which lies on it too.

    No index is within reach there: uv has the packages from when it made the bundle.
    """
    checkout.copied(clean.root / "opt/checkout")
    cache = subprocess.run([sys.executable, "-m", "uv", "cache", "dir"], capture_output=True, text=True, check=True)
    offline = {"UV_OFFLINE": "1", "UV_CACHE_DIR": cache.stdout.strip()}

    def run(target: str, **variables: str) -> Done:
        return clean.container.run(*checkout.command(Path("/opt/checkout"), target, **variables), **offline, GZIP="-1")

    return run


@pytest.fixture(scope="module")
def service(bundle: Path, selu: Path) -> Iterator[Board]:
    """A board on which npumon is installed and watches a model that falls back."""
    with booted() as container:
        board = Board(container, bundle)
        board.install()
        model = {"path": board.model(selu, "selu.onnx"), "options": {"soc_model": "58"}, "gate": {"npu_flops": 0.99}}
        board.configure({"m": model})
        board.start()
        board.wait("fallback_detected")
        yield board


@pytest.fixture
def other(service: Board) -> Iterator[Callable[[], Path]]:
    """Makes a copy of the bundle in /opt/other, to be changed."""
    copy = service.root / "opt/other"

    def make() -> Path:
        service.container.must("cp", "-R", "/opt/bundle", "/opt/other")
        return copy

    yield make
    shutil.rmtree(copy, ignore_errors=True)


def refusal(done_code: int, out: str, err: str) -> str:
    """The one line that the installer gave instead of doing anything."""
    assert done_code == 1
    assert out == ""
    assert err.startswith("install.sh: ")
    assert err.count("\n") == 1
    return err.removeprefix("install.sh: ").strip()


def refused(board: Board, action: str = "install", bundle: str = "bundle", **more: str) -> str:
    """The line with which the installer refuses this."""
    done = board.installer(action, bundle, **more)
    return refusal(done.returncode, done.stdout, done.stderr)


# ---------------------------------------------------------------------------------------------- a clean board


def test_install_use_and_remove(board: Board, make: Make, selu: Path) -> None:
    """What the README says works, in its order; configuration and state stay at the end, and go with PURGE=1."""
    python = board.container.must(PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()
    made = make("bundle", MACHINE=os.uname().machine, BOARD_PYTHON=python)
    assert made.returncode == 0, made.stderr
    (lines,) = re.findall(
        r"^board# (tar .*)\n^board# (sh .*)\n", (checkout.ROOT / "README.md").read_text(), re.MULTILINE
    )
    copied = "mkdir /opt/home && cd /opt/home && mv /opt/checkout/dist/npumon-*.tar.gz ."
    said = board.container.must("sh", "-c", " && ".join([copied, *lines]))
    assert not list((board.root / "opt/home").iterdir())
    assert "systemctl enable --now npumon" in said
    assert board.container.run("systemctl", "is-active", "npumon").stdout == "inactive\n"
    assert (board.root / ETC / "npumon.toml").read_text() == (board.root / ETC / "npumon.toml.example").read_text()
    board.configure({"m": {"path": board.model(selu, "selu.onnx")}})
    checked = board.container.run("/opt/npumon/bin/npumon", "check", "-c", f"/{ETC}/npumon.toml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    board.container.must("systemctl", "enable", "--now", "npumon")
    board.wait_checks("m")
    assert board.metric('verdict{model="m",state="healthy"}') == 1
    kept = (board.root / ETC / "npumon.toml").read_text()

    done = board.container.run("sh", f"/{HOME}/install.sh", "uninstall")
    left = f"/{ETC} /var/lib/npumon /var/lib/private/npumon"
    assert done.stdout == f"npumon was removed; left: {left} (PURGE=1 removes them too)\n"
    assert done.stderr == ""
    assert board.container.run("systemctl", "status", "npumon").returncode == 4  # no such unit
    assert not (board.root / "opt/npumon").exists()
    assert (board.root / ETC / "npumon.toml").read_text() == kept
    assert (board.root / "var/lib/private/npumon/npumon.db").exists()

    done = board.installer("uninstall", PURGE="1")
    assert done.stdout == "npumon was removed\n"
    for path in (*left.split(), f"/{UNIT}", "/etc/systemd/system/multi-user.target.wants/npumon.service"):
        assert not _there(board, path)


def test_install_and_remove_from_a_checkout(board: Board, make: Make) -> None:
    """`make install` installs for the machine itself, `make uninstall` takes it away, with their variables."""
    done = make("install", PREFIX="/usr/local")
    assert done.returncode == 0, done.stderr
    assert "is in /usr/local; its configuration is " in done.stdout
    assert board.container.must("npumon", "--version").startswith("npumon, version ")
    done = make("uninstall", PREFIX="/usr/local")
    assert done.stdout == f"npumon was removed; left: /{ETC} (PURGE=1 removes them too)\n"
    assert not _there(board, "/usr/local/bin/npumon")
    assert make("uninstall", PURGE="1").stdout == "npumon was removed\n"
    assert not _there(board, f"/{ETC}")


def _there(board: Board, path: str) -> bool:
    return board.container.run("test", "-e", path, "-o", "-L", path).returncode == 0


def test_another_prefix(board: Board) -> None:
    """PREFIX= puts all of it elsewhere, the unit and the copy of the installer follow, and that copy finds it."""
    board.install(PREFIX="/usr/local")
    assert board.container.must("npumon", "--version").startswith("npumon, version ")
    assert "ExecStart=/usr/local/bin/npumon run" in (board.root / UNIT).read_text()
    done = board.container.run("sh", "/usr/local/lib/npumon/install.sh", "uninstall")
    assert done.returncode == 0, done.stderr
    assert not _there(board, "/usr/local/bin/npumon")
    assert _there(board, "/usr/local/bin")


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"PREFIX": "opt"}, "PREFIX=opt: not a plain absolute path; write PREFIX=/opt/npumon"),
        ({"PREFIX": "/a b"}, "PREFIX=/a b: not a plain absolute path; write PREFIX=/opt/npumon"),
        ({"PYTHON": "/opt/older"}, "the bundle is for Python {0}, /opt/older is 3.9; make bundle BOARD_PYTHON=3.9"),
        ({"PYTHON": "/opt/bare"}, "/opt/bare has no venv module; install it (Yocto: python3-venv, python3-modules)"),
        ({"PYTHON": "/opt/own"}, "/opt/own lives in a home directory, which the unit hides; give PYTHON="),
        ({"PYTHON": "/opt/none"}, "no Python {0}; install it, or make bundle BOARD_PYTHON={1}"),
    ],
)
def test_what_does_not_fit_is_refused(board: Board, more: dict[str, str], line: str) -> None:
    """Each is one line with what mends it, and nothing has been made."""
    wanted = (board.root / "opt/bundle/bundle.env").read_text().split("python=")[1].strip()
    present = board.container.must(PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()
    for name, program in {
        "older": "echo 3.9 /usr",
        "bare": f'case "$2" in *venv*) exit 1 ;; esac; exec {PYTHON} "$@"',
        "own": f"echo {wanted} /home/me/python",
    }.items():
        file = board.root / "opt" / name
        file.write_text(f"#!/bin/sh\n{program}\n")
        file.chmod(0o755)
    assert refused(board, **more) == line.format(wanted, present)
    assert not _there(board, "/opt/npumon")
    assert not _there(board, f"/{UNIT}")


def test_a_bundle_for_another_processor_is_refused(board: Board) -> None:
    """The processor is compared before anything is made."""
    shutil.copytree(board.root / "opt/bundle", board.root / "opt/wrong", ignore=shutil.ignore_patterns("packages"))
    env = board.root / "opt/wrong/bundle.env"
    env.write_text(env.read_text().replace("machine=", "machine=not-"))
    here = board.container.must("uname", "-m").strip()
    line = f"the bundle is for not-{here}, this is {here}; make bundle MACHINE={here}"
    assert refused(board, bundle="wrong") == line


def test_only_root_may_install(board: Board) -> None:
    """Somebody else is told to use sudo."""
    done = board.container.run("setpriv", "--reuid=65534", "--clear-groups", "sh", "/opt/bundle/install.sh", "install")
    assert refusal(done.returncode, done.stdout, done.stderr) == "needs root; run it with sudo"


def test_a_board_without_systemd_is_told_so(board: Board) -> None:
    """Where another program is PID 1, nothing is made."""
    hidden = "mount -t tmpfs tmpfs /run/systemd && exec sh /opt/bundle/install.sh install"
    done = board.container.run("unshare", "--mount", "sh", "-c", hidden)
    line = "systemd does not run here; boot the board with it, or start npumon run yourself"
    assert refusal(done.returncode, done.stdout, done.stderr) == line


def test_removing_what_is_not_there(board: Board) -> None:
    """A wrong PREFIX is not mistaken for a removal."""
    assert refused(board, "uninstall") == "no npumon in /opt/npumon; give its PREFIX="


def test_a_full_disk_leaves_no_half_configuration(board: Board) -> None:
    """What does not fit into /etc is told in one line, and the next installation begins with a whole configuration."""
    small = f"mkdir -p /{ETC} && mount -t tmpfs -o size=4k tmpfs /{ETC} && ! sh /opt/bundle/install.sh install"
    done = board.container.run("unshare", "--mount", "sh", "-c", f"{small} && ls /{ETC} && exit 1")
    assert done.stdout == "npumon.toml.example\nnpumon.toml.new\n"
    line = refusal(done.returncode, "", done.stderr)
    assert line.endswith(f"No space left on device; make /{ETC} writable, or free space there")


def test_a_command_of_somebody_else_is_left_alone(board: Board) -> None:
    """An environment that was made by hand at the same place is not overwritten."""
    file = board.root / "opt/npumon/bin/npumon"
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    line = "/opt/npumon/bin/npumon: not made by this script; remove it, or give another PREFIX="
    assert refused(board) == line
    assert file.read_text() == "mine"
    shutil.rmtree(board.root / "opt/npumon")


# ---------------------------------------------------------------------------------------------- a running service


def test_an_upgrade_keeps_configuration_and_state(service: Board) -> None:
    """The same command again: another process of the new version, the old one gone, and the open incident is known."""
    before, old = service.main, _versions(service)
    kept = (service.root / ETC / "npumon.toml").read_text()
    assert "the service was restarted" in service.install()
    assert service.main not in (0, before)
    assert len(_versions(service)) == 1
    assert not _versions(service) & old
    assert (service.root / ETC / "npumon.toml").read_text() == kept
    service.wait_checks("m", more=2)
    assert service.metric('verdict{model="m",state="fallback"}') == 1
    assert len(service.told("fallback_detected")) == 1


def test_a_configuration_that_the_new_version_refuses_stops_the_upgrade(service: Board) -> None:
    """The line names file, line and key; the service that runs is the one that ran."""
    before, old = service.main, _versions(service)
    file = service.root / ETC / "npumon.toml"
    kept = file.read_text()
    file.write_text(kept.replace("replays = 5", "replays = 1"))
    line = refused(service)
    file.write_text(kept)
    assert line.startswith(f"/{ETC}/npumon.toml:")
    assert line.endswith("write replays = 30; correct it, then install again; what runs was left as it is")
    assert (service.main, _versions(service)) == (before, old)


def test_packages_that_do_not_load_stop_the_upgrade(service: Board, other: Callable[[], Path]) -> None:
    """A bundle that was cut short, or made for another C library, is noticed before anything is replaced."""
    before, old = service.main, _versions(service)
    shutil.rmtree(other() / "packages/onnxruntime")
    line = refused(service, bundle="other")
    assert line.startswith("ModuleNotFoundError: No module named 'onnxruntime'")
    assert line.endswith("the packages do not fit this board: make bundle for its Python and C library")
    assert (service.main, _versions(service)) == (before, old)


@pytest.mark.parametrize("size", ["8k", "20m"])
def test_a_full_disk_stops_the_upgrade(service: Board, size: str) -> None:
    """What was half made or half copied is removed, the service goes on."""
    before, old = service.main, _versions(service)
    small = f"mount -t tmpfs -o size={size} tmpfs /{HOME} && exec sh /opt/bundle/install.sh install"
    done = service.container.run("unshare", "--mount", "sh", "-c", f"{small}")
    line = refusal(done.returncode, done.stdout, done.stderr)
    assert "No space left on device; free space below /opt/npumon" in line
    assert (service.main, _versions(service)) == (before, old)


def test_one_unit_is_not_shared_by_two_installations(service: Board) -> None:
    """Another PREFIX is refused, to install and to remove, also with PURGE=1; the line says which one is right."""
    before, old = service.main, _versions(service)
    own = f"sh /{HOME}/install.sh uninstall"
    line = f"npumon is in /opt/npumon; give PREFIX=/opt/npumon, or remove it first: {own}"
    assert refused(service, PREFIX="/usr/local") == line
    assert refused(service, "uninstall", PREFIX="/usr/local") == line
    assert refused(service, "uninstall", PREFIX="/usr/local", PURGE="1") == line
    assert (service.main, _versions(service)) == (before, old)


def test_a_bundle_among_others_is_to_be_named(service: Board) -> None:
    """With two bundles side by side `sh npumon-*/install.sh install` hands one installer the other's name."""
    done = service.container.run("sh", "/opt/bundle/install.sh", "newer/install.sh", "install")
    line = "several bundles are unpacked here; name one: sh newer/install.sh install"
    assert refusal(done.returncode, done.stdout, done.stderr) == line


def test_a_bundle_made_with_a_narrow_umask_runs(service: Board, other: Callable[[], Path]) -> None:
    """Its folders are for its maker alone; the service, which is not root, may read what was installed from it."""
    before = service.main
    other()
    service.container.must("chmod", "-R", "go=", "/opt/other")
    done = service.installer("install", "other")
    assert done.returncode == 0, done.stderr
    assert service.main not in (0, before)
    service.wait_checks("m")


def test_an_upgrade_of_a_service_that_has_failed_says_so(service: Board) -> None:
    """It is installed, not started, and the last but one line says what to do."""
    service.container.must("systemctl", "enable", "--quiet", "npumon")
    service.container.must("systemctl", "stop", "npumon")
    said = service.install()
    assert "the service does not run; systemctl start npumon starts it, and says if it has failed\n" in said
    service.start()
    assert "the service was restarted\n" in service.install()


def test_a_version_that_does_not_start_is_taken_back(service: Board, other: Callable[[], Path]) -> None:
    """The old one runs again at once, with its unit, and the line says what happened."""
    before, old = service.main, _versions(service)
    broken = other()
    daemon = broken / "packages/monitor/service/daemon.py"
    daemon.write_text(daemon.read_text().replace("signals = Signals()", "raise SystemExit(4)"))
    unit = broken / "npumon.service"
    unit.write_text(unit.read_text().replace("NPU fallback monitor", "a newer one"))
    done = service.installer("install", "other")
    (name,) = old
    line = refusal(done.returncode, done.stdout, done.stderr)
    assert f"does not start, {name} was put back and it runs again; see journalctl -u npumon" in line
    assert service.main not in (0, before)
    assert _versions(service) == old
    assert "NPU fallback monitor" in (service.root / UNIT).read_text()
    service.wait_checks("m")


def _versions(board: Board) -> set[str]:
    """The versions that lie on the board; the command is one of them."""
    names = {path.name for path in (board.root / HOME).iterdir() if path.is_dir()}
    assert board.container.must("readlink", "/opt/npumon/bin/npumon").split("/")[-3] in names
    return names
