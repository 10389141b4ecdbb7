"""The machine: what it is, and what state it is in while a model is measured on it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

RUNNING = ("running", "attached")
"""The kernel's words for a remote processor that is up; attached: since before Linux was."""


class Board(Struct, frozen=True):
    """The machine, as far as it tells. Absent facts stay ``None``."""

    hostname: str
    machine: str
    kernel: str
    soc: str | None = None


class Clock(Struct, frozen=True):
    """One clock in hertz: what it runs at, what it may run at now, and what the hardware is made for."""

    current: float | None = None
    allowed: float | None = None
    highest: float | None = None


class Zone(Struct, frozen=True):
    """The hottest thermal zone of one kind, in degrees Celsius. ``limit``: where the kernel begins to slow it down."""

    celsius: float
    limit: float | None = None


class BoardReading(Struct, frozen=True):
    """The board's state at one moment. What the board does not have is not in here.

    ``zones`` by kind (``cpu``, ``npu``); ``cpu_clocks`` by cpufreq policy, ``device_clocks`` by devfreq device;
    ``stalled`` are the seconds since boot in which some task waited for a resource (``cpu``, ``io``, ``memory``;
    pressure stall information); ``remoteprocs`` by name, with the kernel's word for their state; ``nodes``: whether
    this process may open a device node of the accelerator. ``uptime`` is the monotonic clock in seconds.
    """

    uptime: float
    zones: dict[str, Zone] = {}
    cpu_clocks: dict[str, Clock] = {}
    device_clocks: dict[str, Clock] = {}
    stalled: dict[str, float] = {}
    remoteprocs: dict[str, str] = {}
    nodes: dict[str, bool] = {}


class Circumstance(Struct, frozen=True):
    """Something about the board that may explain a latency, with the sentence that says what was read."""

    kind: Literal["hot", "throttled", "contended", "cold", "accelerator_down"]
    text: str
