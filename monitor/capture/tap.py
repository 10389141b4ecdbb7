"""What an application puts beside its ``session.run``: counts every call, keeps a few inputs, costs microseconds.

The caller's thread counts the call and, for the few that are worth it, copies the arrays, since their owner may reuse
them. All else (redaction, files, bounds) happens in a thread of the tap's own, which nobody waits for.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

from monitor.capture.arrays import Feeds, copied
from monitor.capture.reservoir import Reservoir, rank
from monitor.capture.writer import SLOW_FROM, SLOW_SHARE, Sample, Settings, Writer

_taps: weakref.WeakSet[InputTap] = weakref.WeakSet()


class InputTap:
    """Keeps a sample of what is offered in ``directory``, as ``.npz`` files with one array an input.

    Of ``keep`` files three quarters are a fair sample of all calls (every call has the same chance, halved with each
    ``half_life`` in seconds that it is older), the rest a fair sample of the slowest twentieth, since these are the
    inputs that stress fallback paths. ``rate`` is the share of calls that are considered at all, slow ones in such a
    way that both parts fill equally fast. Together the files take at most ``most_bytes``, one of them an eighth.
    Any number of threads and processes may share a directory; all give the same settings.

    ``redact`` is handed a copy of the inputs of each call that would be kept, in the tap's own thread, and returns what
    may be kept, or ``None`` for nothing. Inputs can be personal: files have ``mode`` 0600, a directory that is made the
    rights to match. For a daemon of another user to read them, share a group and give 0o640.

    Nothing but making it with settings that make no sense (``ValueError``) ever raises, and nothing waits for the disk;
    what goes wrong is logged once a kind (logger ``npumon.capture``).
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        keep: int = 64,
        rate: float = 0.01,
        *,
        most_bytes: int = 64 * 2**20,
        half_life: float = 7 * 86_400.0,
        redact: Callable[[Feeds], Feeds | None] | None = None,
        mode: int = 0o600,
    ) -> None:
        if keep < 4 or not 0 < rate <= 1 or most_bytes <= 0 or not half_life > 0 or mode & ~0o066 != 0o600:
            raise ValueError(
                f"keep = {keep}, rate = {rate}, most_bytes = {most_bytes}, half_life = {half_life}, mode = {mode:#o}: "
                "expected keep from 4, rate above 0 and up to 1, mode from 0o600 to 0o666, the others above 0"
            )
        self._settings = Settings(Path(directory).absolute(), keep, most_bytes, half_life, redact, mode)
        self._rate, self._slow_rate = rate, min(1.0, rate * SLOW_SHARE / SLOW_FROM)
        self._closed = False
        self._begin()
        _taps.add(self)

    def _begin(self) -> None:
        """What belongs to one process; anew in a forked child, where locks may be held by threads that are not."""
        self._writer = Writer(self._settings)
        self._random = Random().random  # not the application's own generator, which it may have seeded
        weakref.finalize(self, self._writer.stop).atexit = False

    def offer(self, feeds: Mapping[str, Any], seconds: float) -> None:
        """Tell of one call that took ``seconds`` with these inputs, from any thread. They may change afterwards."""
        if self._closed:
            return
        writer = self._writer
        try:
            writer.ledger.count(seconds)
            if not writer.started:
                writer.start()
            if self._random() < self._rate:
                writer.ledger.count_shapes(feeds)
                self._consider(writer, writer.fair, feeds)
            if seconds > writer.slow_from and self._random() < self._slow_rate:
                self._consider(writer, writer.slow, feeds)
        except Exception as error:  # whatever is wrong here, the application's call was right
            writer.complain("a call was not kept", error)

    def close(self) -> None:
        """Write what waits, for 5 seconds at most; later offers do nothing. An end of the process does the same."""
        self._closed = True
        self._writer.close()

    def _consider(self, writer: Writer, reservoir: Reservoir, feeds: Mapping[str, Any]) -> None:
        now, drawn = time.time(), rank(self._random())
        if not feeds or reservoir.key(drawn, now) >= reservoir.threshold:
            return
        if writer.busy:
            writer.ledger.drop()
            return
        try:
            arrays = copied(feeds, self._settings.largest)
        except Exception:
            writer.ledger.drop()
            raise
        writer.keep(Sample(reservoir, drawn, now, arrays))


def _forked() -> None:
    for tap in _taps:
        tap._begin()


os.register_at_fork(after_in_child=_forked)
