"""Where a real probe's threads stand in the queue, as the kernel tells it: inside a timed section, and outside.

A probe may come forward again by RLIMIT_NICE, which systemd's ``LimitNICE=+0`` gives it, or by a capability. Either is
arranged here as far as this user may do so: root's container may lack the capabilities that root has elsewhere.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from monitor import wire
from monitor.probe import demo_model
from monitor.probe.priority import BEHIND, _ioprio
from monitor.service.handle import PROBE, ProbeHandle
from tests import models
from tests.probing import TIMEOUT, spec

POOL = {"intra_op_num_threads": 3}
IDLE = 3 << 13
# The capability is dropped from what this process may hand on, so that root's probe is one like any other user's.
RESTRICTED = """\
import ctypes, os, resource, sys
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NICE, (limit, limit))
assert ctypes.CDLL(None).prctl(24, 23, 0, 0, 0) == 0  # PR_CAPBSET_DROP, CAP_SYS_NICE
os.execv(sys.argv[2], sys.argv[2:])
"""


def capable(number: int) -> bool:
    """Whether this process has a capability (capabilities(7))."""
    status = Path("/proc/self/status").read_text()
    return bool(int(status.split("CapEff:")[1].split()[0], 16) >> number & 1)


droppable = pytest.mark.skipif(not capable(8), reason="dropping a capability takes CAP_SETPCAP")
raisable = pytest.mark.skipif(not (capable(8) and capable(24)), reason="raising a limit takes CAP_SYS_RESOURCE")
favoured = pytest.mark.skipif(not capable(23), reason="coming forward takes CAP_SYS_NICE")


def restricted(limit: int) -> tuple[str, ...]:
    """A probe without CAP_SYS_NICE and with this RLIMIT_NICE (20 less the best niceness that it may have)."""
    return (sys.executable, "-c", RESTRICTED, str(limit), *PROBE)


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose inference takes the simulator about half a second."""
    return models.saved(demo_model.build((3, 64, 64), 72), tmp_path_factory.mktemp("models"), "slow.onnx")


@contextmanager
def opened(path: Path, argv: tuple[str, ...]) -> Iterator[ProbeHandle]:
    """A probe with a session that has a thread pool of its own."""
    handle = ProbeHandle(argv)
    try:
        handle.request(wire.Open(spec(path, session=POOL), 1), TIMEOUT)
        yield handle
    finally:
        handle.close()


def priorities(pid: int) -> dict[int, tuple[int, int | None]]:
    """Niceness (proc_pid_stat(5), field 19) and I/O priority of each thread."""
    found = {}
    for folder in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # a thread that has just ended
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            found[int(folder.name)] = int(fields[16]), _ioprio(int(folder.name))
    return found


Looks = list[dict[int, tuple[int, int | None]]]


def seen_during(handle: ProbeHandle, request: wire.Request) -> tuple[Any, Looks]:
    """The answer to ``request``, and the threads' priorities again and again until it came."""
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(handle.request(request, TIMEOUT)), daemon=True)
    looks = []
    asking.start()
    while asking.is_alive():
        looks.append(priorities(handle.pid))
        time.sleep(0.02)
    asking.join()
    assert answers, "refused"
    return answers[0], looks


def seen_while_timing(handle: ProbeHandle) -> Looks:
    """The threads' priorities, from the first look to the last that a replay ran for sure."""
    replays, looks = seen_during(handle, wire.Replay(4, 1, TIMEOUT))
    assert len(replays.seconds) == 4
    return looks


def middle(looks: Looks) -> Looks:
    """The looks well inside: five inferences of half a second lie around them."""
    return looks[len(looks) // 4 : 3 * len(looks) // 4]


def places(looks: Looks) -> list[str]:
    """Where all threads stood together, one place after the other; looks while they are being moved are left out."""
    own = os.getpriority(os.PRIO_PROCESS, 0), _ioprio(0)
    names = {frozenset({own}): "own", frozenset({(BEHIND, IDLE)}): "behind"}
    found = [names.get(frozenset(look.values()), "") for look in looks]
    assert found.count("") < len(found) / 4
    return [name for name, _ in itertools.groupby(filter(None, found))]


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param(PROBE, marks=favoured, id="capability"),
        pytest.param(restricted(20), marks=raisable, id="LimitNICE"),
    ],
)
def test_timed_sections_have_the_first_priority_and_nothing_else_has(slow: Path, argv: tuple[str, ...]) -> None:
    """While it times, all threads of a probe, pools included, stand where the service stands; else behind."""
    own = os.getpriority(os.PRIO_PROCESS, 0), _ioprio(0)
    with opened(slow, argv) as handle:
        before = priorities(handle.pid)
        assert len(before) >= 4
        assert set(before.values()) == {(BEHIND, IDLE)}
        timed = middle(seen_while_timing(handle))
        assert len(timed) > 10
        for look in timed:
            assert len(look) >= 4
            assert set(look.values()) == {own}
        assert set(priorities(handle.pid).values()) == {(BEHIND, IDLE)}


class Audited(NamedTuple):
    """What an audit left for a comparison, and what was seen of its probe."""

    folder: Path
    creating: Looks
    auditing: Looks


@pytest.fixture(scope="module")
def audited(slow: Path, tmp_path_factory: pytest.TempPathFactory) -> Audited:
    """A probe that has made a session and audited it."""
    folder = tmp_path_factory.mktemp("outputs")
    handle = ProbeHandle()
    try:
        _, creating = seen_during(handle, wire.Open(spec(slow, session=POOL), 1))
        creating.append(priorities(handle.pid))
        profile, auditing = seen_during(handle, wire.Audit(2, TIMEOUT, str(folder)))
        auditing.append(priorities(handle.pid))
        assert len(profile.runs) == 2
        return Audited(folder, creating, auditing)
    finally:
        handle.close()


@favoured
def test_a_session_is_created_behind_everybody(audited: Audited) -> None:
    """So are the imports before it: from the moment when the request is read."""
    assert places(audited.creating) in (["behind"], ["own", "behind"])
    assert places(audited.creating[len(audited.creating) // 2 :]) == ["behind"]


@favoured
def test_an_audit_has_the_first_priority_for_its_inferences_only(audited: Audited) -> None:
    """They are nearly all of it; the probe has stepped back by its end."""
    assert places(middle(audited.auditing))[0] == "own"
    assert places(audited.auditing)[-2:] == ["own", "behind"]


@favoured
def test_a_deep_profile_has_the_first_priority_for_its_inferences_only(slow: Path) -> None:
    """Its session is made behind everybody; then come its inferences; then the accelerator's profile is read."""
    handle = ProbeHandle()
    try:
        reading, looks = seen_during(handle, wire.Deepen(spec(slow, session=POOL), 2, TIMEOUT))
        assert reading.runs == 2
        seen = places([*looks, priorities(handle.pid)])
        assert seen[-3:] == ["behind", "own", "behind"]
        assert seen[:-3] in ([], ["own"])  # until the request is read
    finally:
        handle.close()


@droppable
def test_a_probe_that_cannot_come_back_keeps_its_niceness(slow: Path) -> None:
    """Without RLIMIT_NICE and capability nothing is niced, since it would stay so; the I/O priority needs neither."""
    own = os.getpriority(os.PRIO_PROCESS, 0)
    with opened(slow, restricted(0)) as handle:
        assert set(priorities(handle.pid).values()) == {(own, IDLE)}
        for look in middle(seen_while_timing(handle)):
            assert set(look.values()) == {(own, _ioprio(0))}
        assert set(priorities(handle.pid).values()) == {(own, IDLE)}


@pytest.mark.parametrize("kind", ["study", "comparison"])
def test_what_times_nothing_is_made_behind_everybody(slow: Path, audited: Audited, kind: str) -> None:
    """Such a process steps back for good, whether it could come forward again or not."""
    described = spec(slow, session=POOL)
    request = (
        wire.MakeStudy(described, 2) if kind == "study" else wire.Compare(described, str(audited.folder), 2**32, 0.1)
    )
    handle = ProbeHandle()
    try:
        _, looks = seen_during(handle, request)
        assert {value for look in looks[len(looks) // 2 :] for value in look.values()} == {(BEHIND, IDLE)}
        assert set(priorities(handle.pid).values()) == {(BEHIND, IDLE)}
    finally:
        handle.close()
