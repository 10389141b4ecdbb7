"""A probe that is real in everything but its clock, which it lost: every replay takes NaN seconds."""

from __future__ import annotations

from monitor import wire
from monitor.probe import __main__ as probe
from monitor.records import Replays


class LostClock(probe.Probe):
    """Answers like the real one."""

    def _replay(self, request: wire.Replay) -> Replays:
        count = len(super()._replay(request).seconds)
        return Replays((float("nan"),) * count, ())


probe.Probe = LostClock  # type: ignore[misc]
probe.main()
