"""The board's state around the replays: heat, clocks, waiting tasks, and whether the accelerator's firmware is up.

A slow accelerator and a hot, throttled or crowded board look alike in a latency, so that each check reads both. All of
it comes from small files of the kernel. What a board does not have, or does not let npumon read, stays absent; nothing
here raises, takes a number of its own making, or opens a device.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from monitor.records import BoardReading, Clock, Postponed, Zone

_ZONES = 128  # phones have 70 and more, a third of them for the CPU
_POLICIES = 32
_DEVICES = 64
_REMOTEPROCS = 16
_NODES = 8
_TRIPS = 16
_NAME = 64

# Zones by the kind of what they measure, after the device trees of Qualcomm's SoCs (docs/board.md). A lowf zone is
# another view of the same sensor that acts when it is too cold; its trip points are no limits.
_KINDS = {
    "cpu": re.compile(r"(cpu|apc\d?-|kryo|cluster\d|x86_pkg_temp)(?!.*-lowf$)", re.I),
    "npu": re.compile(r"(nsp|cdsp|npu|compute|(q6-?)?h[vm]x)(?!.*-lowf$)", re.I),
}
_VIEW = re.compile(r"-(usr|step)$")
# Everything that an inference's data passes, and the GPU, which shares heat and memory with it. Not storage or display.
_DEVICE = re.compile(r"npu|nsp|cdsp|hvx|ddr|dmc|llcc|l3|bimc|noc|cci|gpu|kgsl|mali", re.I)
_SLOWEST_CLOCK = 1e7  # a devfreq device that has less than 10 MHz counts MB/s (the bandwidth votes of vendor kernels)
_COMPUTE = re.compile(r"(cdsp|nsp)\w*$", re.I)
_DRIVERS = ("fastrpc-cdsp", "adsprpc-smd")
_HEAPS = ("dma_heap/system", "dma_heap/qcom,system")

THRASHING = 10.0
"""Percent of ten seconds in which all tasks at once waited for memory. On a board that has enough of it that is 0,
however busy it is; from 60 on systemd-oomd kills."""
OVERHEATED = 5.0
"""Kelvin beyond its limit at which a zone is out of hand: a governor holds one that is merely hot within some 2 K."""


def read_state(root: Path = Path("/")) -> BoardReading:
    """The board's state now. ``root`` is where /sys, /proc and /dev are.

    Sources: the kernel's Documentation/ABI/testing/sysfs-class-{thermal,devfreq,remoteproc}, admin-guide/pm/cpufreq.rst
    and accounting/psi.rst.
    """
    top = str(root)
    remoteprocs = dict(_remoteprocs(f"{top}/sys/class/remoteproc"))
    return BoardReading(
        uptime=time.monotonic(),
        zones=_zones(f"{top}/sys/class/thermal"),
        cpu_clocks=dict(_cpu_clocks(f"{top}/sys/devices/system/cpu/cpufreq")),
        device_clocks=dict(_device_clocks(f"{top}/sys/class/devfreq")),
        stalled=dict(_stalled(f"{top}/proc/pressure")),
        remoteprocs=remoteprocs,
        nodes=_nodes(f"{top}/dev", bool(remoteprocs)),
    )


def distress(root: Path = Path("/")) -> tuple[Postponed, str] | None:
    """Why the board cannot get on with its work now, and the figure that says so; ``None`` if it can, or does not tell.

    Sources: the kernel's Documentation/accounting/psi.rst (``full`` of memory), and thermal zones with a limit.
    """
    # full avg10=0.00 avg60=0.00 avg300=0.00 total=0
    full = re.search(r"^full avg10=(\d{1,3}\.\d{2}) ", _text(f"{root}/proc/pressure/memory") or "", re.M | re.A)
    if full and float(full[1]) >= THRASHING:
        return "memory", f"for {float(full[1]):.0f} % of the last 10 s all tasks waited for memory"
    for kind, zone in _zones(f"{root}/sys/class/thermal").items():
        if zone.limit is not None and zone.celsius >= zone.limit + OVERHEATED:
            return "heat", f"the {kind.upper()} has {zone.celsius:.0f} degrees C, its limit is {zone.limit:.0f}"
    return None


def _zones(folder: str) -> dict[str, Zone]:
    found: dict[str, list[tuple[float, str, str]]] = {}
    for path in _entries(folder, "thermal_zone", _ZONES):
        name = _text(f"{path}/type") or ""
        kind = next((kind for kind, pattern in _KINDS.items() if pattern.match(name)), None)
        if kind and (celsius := _celsius(f"{path}/temp")) is not None:
            found.setdefault(kind, []).append((celsius, _VIEW.sub("", name), path))
    zones = {}
    for kind, readings in sorted(found.items()):
        hottest, sensor, _ = max(readings)
        # Vendor kernels have several zones for one sensor, and only one of them slows down.
        limits = [limit for _, name, path in readings if name == sensor and (limit := _limit(path)) is not None]
        zones[kind] = Zone(hottest, min(limits, default=None))
    return zones


def _celsius(path: str) -> float | None:
    """A temperature that a running chip can have. A sensor that is off gives 0, -40 or -274 degrees exactly."""
    milli = _number(path)
    return milli / 1000 if milli is not None and -40_000 < milli <= 200_000 and milli != 0 else None


def _limit(zone: str) -> float | None:
    """The lowest temperature from which on the kernel slows something down.

    Only ``passive`` trip points do: ``hot`` tells user space, ``critical`` switches off. With the governor
    ``user_space`` they are alarm clocks that a daemon sets to wherever it wants to be woken.
    """
    if _text(f"{zone}/policy") == "user_space":
        return None
    limits = []
    for trip in range(_TRIPS):
        kind = _text(f"{zone}/trip_point_{trip}_type")
        if kind is None:
            break
        if kind == "passive" and (celsius := _celsius(f"{zone}/trip_point_{trip}_temp")) is not None:
            limits.append(celsius)
    return min(limits, default=None)


def _cpu_clocks(folder: str) -> Iterator[tuple[str, Clock]]:
    for path in _entries(folder, "policy", _POLICIES):
        clock = Clock(
            current=_hertz(f"{path}/scaling_cur_freq", 1000),
            allowed=_hertz(f"{path}/scaling_max_freq", 1000),
            highest=_hertz(f"{path}/cpuinfo_max_freq", 1000),
        )
        if clock != Clock():
            yield _name(path), clock


def _device_clocks(folder: str) -> Iterator[tuple[str, Clock]]:
    for path in _entries(folder, "", _DEVICES):
        if not _DEVICE.search(_name(path)):
            continue
        steps = re.findall(r"(?a:\b\d{1,18}\b)", _text(f"{path}/available_frequencies") or "")
        clock = Clock(
            current=_hertz(f"{path}/cur_freq"),
            allowed=_hertz(f"{path}/max_freq"),
            highest=max(filter(None, map(float, steps)), default=None),
        )
        if max(clock.current or 0, clock.allowed or 0, clock.highest or 0) >= _SLOWEST_CLOCK:
            yield _name(path), clock


def _stalled(folder: str) -> Iterator[tuple[str, float]]:
    for resource in ("cpu", "io", "memory"):
        # some avg10=0.00 avg60=0.00 avg300=0.00 total=0
        some = re.match(r"some .*\btotal=(\d{1,18})\b", _text(f"{folder}/{resource}") or "", re.ASCII)
        if some:
            yield resource, int(some[1]) / 1e6


def _remoteprocs(folder: str) -> Iterator[tuple[str, str]]:
    for path in _entries(folder, "remoteproc", _REMOTEPROCS):
        # Older kernels name it after its address; then the firmware's file says which one it is.
        firmware = (_text(f"{path}/firmware") or "").rsplit("/", 1)[-1].split(".")[0]
        name = next((word for word in (_text(f"{path}/name") or "", firmware) if _COMPUTE.match(word)), None)
        state = _text(f"{path}/state")
        if name and state:
            yield name[:_NAME], state[:_NAME]


def _nodes(folder: str, dsp: bool) -> dict[str, bool]:
    """Whether this user may open what fastrpc's library opens. A heap alone says nothing: any kernel may have one."""
    paths = [path for driver in _DRIVERS for path in _entries(folder, driver, _NODES)]
    if paths or dsp:
        paths += [path for heap in _HEAPS if os.path.exists(path := f"{folder}/{heap}")]
    return {_readable(f"/dev{path[len(folder) :]}")[:_NAME]: os.access(path, os.R_OK | os.W_OK) for path in paths}


def _entries(folder: str, prefix: str, most: int) -> list[str]:
    """Paths in ``folder``, in the order of their numbers."""
    try:
        names = [name for name in os.listdir(folder) if name.startswith(prefix)]
    except OSError:
        return []
    return [f"{folder}/{name}" for name in sorted(names, key=lambda name: (len(name), name))[:most]]


def _name(path: str) -> str:
    return _readable(path.rsplit("/", 1)[-1])[:_NAME]


def _readable(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "replace")


def _text(path: str) -> str | None:
    """What a file holds, without the white space around it; ``None`` if there is no such file or it gives an error."""
    # A check reads a hundred of these: this takes a quarter of what Path.read_text takes.
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        return os.read(file, 4096).decode("utf-8", "replace").strip() or None
    except OSError:
        return None
    finally:
        os.close(file)


def _number(path: str) -> int | None:
    text = _text(path)
    return int(text) if text and re.fullmatch(r"-?\d{1,18}", text, re.ASCII) else None


def _hertz(path: str, unit: int = 1) -> float | None:
    number = _number(path)
    return float(number * unit) if number and number > 0 else None
