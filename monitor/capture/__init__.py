"""Real inputs from the application: an :class:`InputTap` beside its ``session.run``, or a :class:`TappedSession`.

For use inside any application: numpy and the standard library are all it needs, nothing it does raises into the caller,
and the disk is another thread's business. What it keeps is what ``npumon`` replays (``models.samples``).

    tap = InputTap("/var/lib/app/samples/detector")
    start = time.perf_counter()
    outputs = session.run(None, feeds)
    tap.offer(feeds, time.perf_counter() - start)
"""

from monitor.capture.session import TappedSession
from monitor.capture.tap import InputTap

__all__ = ["InputTap", "TappedSession"]
