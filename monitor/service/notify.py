"""What systemd is told: ready, alive, stopping, and one line of status (sd_notify, without its library).

Outside of systemd there is no socket and every call does nothing. Telling never raises and never blocks for long: a
daemon that watches others must not die of the one that watches it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time


def ready() -> None:
    """Start-up, or a reload, is over."""
    _send("READY=1")


def status(text: str) -> None:
    """One line for ``systemctl status``."""
    _send(f"STATUS={' '.join(text.split())}")


def watchdog() -> None:
    """The service works; to be sent every :func:`watchdog_interval`, and only if it does."""
    _send("WATCHDOG=1")


def stopping() -> None:
    _send("STOPPING=1")


def reloading() -> None:
    """A reload begins; :func:`ready` ends it."""
    _send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_interval() -> float | None:
    """Seconds between two :func:`watchdog` calls, half of what systemd allows; ``None`` if it does not watch."""
    try:
        allowed = int(os.environ.get("WATCHDOG_USEC", ""))
        watched = int(os.environ.get("WATCHDOG_PID", os.getpid()))
    except ValueError:
        return None
    return allowed / 2e6 if allowed > 0 and watched == os.getpid() else None


def _send(message: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(1.0)
        sender.connect(address)
        sender.sendall(message.encode(errors="replace"))
