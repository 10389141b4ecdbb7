"""The deep audit: a few inferences under the execution provider's own profile, in a session made for nothing else.

Such a profile slows the session down and grows without bound, so it never runs in the session that is watched. Here it
is bounded three ways: few inferences, no further one once the budget is spent, and no file longer than ``DISK_LIMIT``,
which the kernel enforces. The files go with the folder.
"""

from __future__ import annotations

import resource
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from monitor.probe import model as models
from monitor.probe import provider as providers
from monitor.probe import session as sessions
from monitor.probe.priority import Priority
from monitor.probe.provider import DeepCounts, DeepSource
from monitor.probe.replay import run_once
from monitor.probe.samples import Corpus
from monitor.records import DeepReading, DeepRow, DeepTimes, Placed
from monitor.wire import Deepen

DISK_LIMIT = 64 * 2**20  # bytes a file; about 500,000 rows


def deepen(request: Deepen, scratch: Path, abandoned: threading.Event, limit: int = DISK_LIMIT) -> DeepReading:
    """Profile up to ``request.runs`` inferences, after one that pays for powering up and is left out.

    If the budget is spent by the first inference already, that one is the measurement. Once the session is made, no
    file that this process writes grows beyond ``limit`` bytes. Raises :class:`MeasureError` as a session and its runs
    do.
    """
    priority = Priority()
    spec = request.spec
    provider = providers.find(spec.provider)
    with tempfile.TemporaryDirectory(prefix="deep-", dir=scratch) as folder:
        source = provider.deep(Path(folder))
        if source is None:
            return DeepReading((), 0, partial=f"the execution provider {provider.name} has no profile of its own")
        model = models.load(Path(spec.path))
        profiled = msgspec.structs.replace(spec, options={**spec.options, **source.options})
        created = sessions.create(profiled, model, provider, str(Path(folder) / "unused"))
        session = created.session
        Path(session.end_profiling()).unlink(missing_ok=True)  # the runtime's own profile would only cost time
        placement = sessions.placement(session, provider.ep_name)
        if not any(node.processor == "accelerator" for node in placement):
            return DeepReading(placement, 0, partial="no op ran on the accelerator")
        files = Path(spec.samples) if spec.samples is not None else None
        corpus = Corpus(files, sessions.signature(session), spec.assumed)
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        # writes beyond it fail with EFBIG (Python ignores the signal), and the provider goes on without
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
        with priority.own():
            seconds = _run(session, corpus, request, source, abandoned, limit)
        return _reading(placement, seconds, source.read(limit))


def _run(
    session: Any, corpus: Corpus, request: Deepen, source: DeepSource, abandoned: threading.Event, limit: int
) -> list[float]:
    """Wall seconds of all inferences, the first included; each begins at a mark."""
    start, before = time.monotonic(), source.size()
    seconds = [_timed(session, corpus, source)]
    grown = source.size() - before
    while len(seconds) <= request.runs and not abandoned.is_set():
        if time.monotonic() - start > request.budget or source.size() + grown >= limit:
            break
        seconds.append(_timed(session, corpus, source))
    return seconds


def _timed(session: Any, corpus: Corpus, source: DeepSource) -> float:
    ((_, feeds),) = corpus.deal(1)
    source.mark()
    start = time.perf_counter()
    run_once(session, feeds)
    return time.perf_counter() - start


def _reading(placement: tuple[Placed, ...], seconds: list[float], counts: list[DeepCounts]) -> DeepReading:
    """Medians over the inferences behind the first, so that one that was interrupted does not count."""
    seconds, counted = seconds[1:] or seconds, counts[1:] or counts
    runs, partial = len(seconds), next((one.partial for one in counts if one.partial), None)
    if partial:
        return DeepReading(placement, runs, times=DeepTimes(median(seconds)), partial=partial)
    cycles: dict[DeepRow, list[int]] = defaultdict(list)
    for one in counted:
        for row in one.rows:
            cycles[msgspec.structs.replace(row, cycles=0)].append(row.cycles)
    # a row that is absent from an inference, as in a branch not taken, cost nothing in it
    rows = (msgspec.structs.replace(row, cycles=_middle(each, runs)) for row, each in cycles.items())
    unlisted = [max(0, one.cycles - sum(row.cycles for row in one.rows)) for one in counted if one.cycles is not None]
    times = DeepTimes(
        median(seconds),
        _known(one.call for one in counted),
        _known(one.accelerator for one in counted),
        _known(one.busy for one in counted),
    )
    return DeepReading(placement, runs, tuple(rows), _middle(unlisted, runs), times)


def _middle(cycles: list[int], runs: int) -> int:
    return round(median([*cycles, *[0] * (runs - len(cycles))]))


def _known(values: Iterable[float | None]) -> float | None:
    given = list(values)
    known = [value for value in given if value is not None]
    return median(known) if len(known) == len(given) else None
