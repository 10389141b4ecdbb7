"""The machine npumon runs on, as far as it tells; what it does not tell stays absent."""

from __future__ import annotations

import platform
from pathlib import Path

from monitor.records import Board

_SOC = Path("/sys/devices/soc0")


def read(soc: Path = _SOC) -> Board:
    """The board's identity. ``soc`` is the kernel's SoC bus device (Documentation/ABI/testing/sysfs-devices-soc)."""
    parts = [text for name in ("family", "machine", "soc_id") if (text := _line(soc / name))]
    return Board(
        hostname=platform.node(), machine=platform.machine(), kernel=platform.release(), soc=" ".join(parts) or None
    )


def _line(path: Path) -> str | None:
    try:
        return " ".join(path.read_text(errors="replace").split())[:64] or None
    except OSError:
        return None
