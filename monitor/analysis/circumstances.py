"""What the board was going through while a model was measured on it, as far as that may explain a latency.

An explanation is not a verdict: a board that is hot and fast is healthy. So each circumstance only says what was read,
with its numbers, and is told where a latency calls for one.
"""

from __future__ import annotations

from collections.abc import Iterator

from monitor.records import RUNNING, BoardReading, Circumstance, Clock, Latency, Zone

CLOSE = 1.0
"""Kelvin below its limit at which a zone counts as hot: the governor holds it there, on either side."""
HOT = 95.0
"""Degrees Celsius that are hot where the kernel names no limit: 90 to 115 are those of Qualcomm's device trees."""
CAPPED = 0.99
"""Share of its highest clock below which a clock counts as capped; the rest is rounding."""
STALLED = 0.10
"""Share of the time in which some task waited for a CPU, from which on a board counts as contended."""
DISTURBED = 0.25
"""Share of the replays during which the kernel took the CPU away, from which on a board counts as contended."""
COLD = 3.0
"""Times the median that the first inference takes, from which on it was a cold start."""

_PARTS = {"cpu": "CPU", "npu": "NPU"}
_GRAPHICS = ("gpu", "kgsl", "mali")
_MOST = 4


def circumstances(
    before: BoardReading | None, after: BoardReading | None, latency: Latency | None
) -> tuple[Circumstance, ...]:
    """What was read around the replays and during them that may have slowed them down, worst first.

    ``before`` and ``after`` are the board around the replays; whatever is absent is not concluded from.
    """
    readings = [reading for reading in (before, after) if reading]
    found = [
        *_down(readings),
        *_hot(readings),
        *_throttled(readings),
        *_contended(before, after),
        *_disturbed(latency),
        *_cold(latency),
    ]
    return tuple(found)


def _down(readings: list[BoardReading]) -> Iterator[Circumstance]:
    if not readings:
        return
    last = readings[-1]
    crashed = {name: state for reading in readings for name, state in reading.remoteprocs.items() if state == "crashed"}
    down = {name: state for name, state in last.remoteprocs.items() if state not in RUNNING}
    if len(down) < len(last.remoteprocs):
        down = {}  # one that is off while another one runs is not in use
    for name, state in sorted({**down, **crashed}.items())[:_MOST]:
        verb = "is" if last.remoteprocs.get(name) == state else "was"
        yield Circumstance("accelerator_down", f"the compute DSP {name} {verb} {state}")
    for heap in (False, True):
        nodes = {node: granted for node, granted in last.nodes.items() if ("dma_heap" in node) is heap}
        # fastrpc's library takes whichever of a node and its secure twin it may open.
        if nodes and not any(nodes.values()):
            yield Circumstance("accelerator_down", f"npumon may not open {' or '.join(sorted(nodes)[:_MOST])}")


def _hot(readings: list[BoardReading]) -> Iterator[Circumstance]:
    for kind in ("npu", "cpu"):
        zones = [zone for reading in readings if (zone := reading.zones.get(kind))]
        zone = max(zones, key=_excess, default=None)
        if zone is None or _excess(zone) < 0:
            continue
        told = "the kernel names no limit" if zone.limit is None else f"it is slowed down from {zone.limit:g} °C on"
        yield Circumstance("hot", f"the {_PARTS[kind]} reached {zone.celsius:.1f} °C; {told}")


def _excess(zone: Zone) -> float:
    """Kelvin above what counts as hot."""
    return zone.celsius - (HOT if zone.limit is None else zone.limit - CLOSE)


def _throttled(readings: list[BoardReading]) -> Iterator[Circumstance]:
    capped: dict[str, tuple[float, Clock]] = {}
    for reading in readings:
        devices = {
            name: clock
            for name, clock in reading.device_clocks.items()
            if not any(word in name.lower() for word in _GRAPHICS)  # its cap slows no NPU
        }
        for name, clock in {**reading.cpu_clocks, **devices}.items():
            if clock.allowed and clock.highest and (share := clock.allowed / clock.highest) < CAPPED:
                capped[name] = min(capped.get(name, (share, clock)), (share, clock), key=lambda found: found[0])
    if not capped:
        return
    name, (_, clock) = min(capped.items(), key=lambda found: (found[1][0], found[0]))
    others = f", and {len(capped) - 1} more" if len(capped) > 1 else ""
    yield Circumstance("throttled", f"the clock of {name} is capped at {_of(clock)}{others}")


def _of(clock: Clock) -> str:
    allowed, highest = clock.allowed or 0.0, clock.highest or 0.0
    scale, unit = (1e9, "GHz") if highest >= 1e9 else (1e6, "MHz")
    digits = 1 if unit == "GHz" else 0
    if f"{allowed / scale:.{digits}f}" == f"{highest / scale:.{digits}f}":
        digits += 1  # "2.8 of 2.8" says nothing
    return f"{allowed / scale:.{digits}f} of {highest / scale:.{digits}f} {unit}"


def _contended(before: BoardReading | None, after: BoardReading | None) -> Iterator[Circumstance]:
    if not (before and after and "cpu" in before.stalled and "cpu" in after.stalled):
        return
    elapsed = after.uptime - before.uptime
    stalled = after.stalled["cpu"] - before.stalled["cpu"]
    if elapsed > 0 and stalled / elapsed >= STALLED:
        # The kernel's counter and the clock are not read in the same instant.
        yield Circumstance("contended", f"tasks waited for a CPU {min(100 * stalled / elapsed, 100):.0f} % of the time")


def _disturbed(latency: Latency | None) -> Iterator[Circumstance]:
    if latency and latency.disturbed and len(latency.disturbed) >= DISTURBED * len(latency.replays_seconds):
        share = f"{len(latency.disturbed)} of {len(latency.replays_seconds)} replays"
        yield Circumstance("contended", f"the kernel took the CPU away from the probe during {share}")


def _cold(latency: Latency | None) -> Iterator[Circumstance]:
    if latency and latency.warmups_seconds and latency.median_seconds > 0:
        times = latency.warmups_seconds[0] / latency.median_seconds
        if times >= COLD:
            yield Circumstance("cold", f"the first inference took {times:.1f} times the median")
