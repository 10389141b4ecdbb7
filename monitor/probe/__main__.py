"""The child process: ``python -m monitor.probe --fds R W``. Reads requests, answers with records, decides nothing.

Native code may print, hang or die; that is why it lives here. When the parent closes the request pipe (or dies), the
running inference is allowed to finish before the process goes: killing it in the middle leaks DSP maps on the board.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from monitor import wire
from monitor.errors import MeasureError
from monitor.records import Failure, Profile, Replays, SessionFacts

LAST_WORD = 600.0  # longest an inference may go on after the parent has gone; a hung one must not stay for ever


class Probe:
    """One model's session, from its creation to the end of the process."""

    def __init__(self, scratch: Path, abandoned: threading.Event) -> None:
        self._scratch = scratch
        self._abandoned = abandoned
        self._session: Any = None
        self._corpus: Any = None
        self._ep_name = ""

    def answer(self, request: wire.Request) -> wire.Reply:
        """The reply to ``request``; every failure becomes a record."""
        try:
            match request:
                case wire.Open():
                    return wire.Facts(self._open(request))
                case wire.Audit():
                    return wire.Profiled(self._audit(request))
                case wire.Replay():
                    return wire.Replayed(self._replay(request))
                case wire.MakeStudy():
                    from monitor.probe import study

                    return wire.Studied(study.make(request.spec, request.runs))
                case wire.Deepen():
                    from monitor.probe import deep

                    return wire.Deepened(deep.deepen(request, self._scratch, self._abandoned))
                case wire.Compare():
                    from monitor.probe import compare

                    return wire.Compared(compare.compare(request))
        except MeasureError as error:
            return wire.Failed(error.failure, error.rejected)
        except Exception as error:
            return wire.Failed(Failure("internal", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))

    def _open(self, request: wire.Open) -> SessionFacts:
        from monitor.probe import model as models
        from monitor.probe import provider as providers
        from monitor.probe import session as sessions
        from monitor.probe.samples import Corpus

        spec = request.spec
        provider = providers.find(spec.provider)
        if spec.soc is not None:
            spec = msgspec.structs.replace(spec, options={**spec.options, **provider.for_soc(spec.soc)})
        model = models.load(Path(spec.path))
        created = sessions.create(spec, model, provider, str(self._scratch / "audit"))
        signature = sessions.signature(created.session)
        self._session, self._ep_name = created.session, provider.ep_name
        folder = Path(spec.samples) if spec.samples is not None else None
        self._corpus = Corpus(folder, signature, spec.assumed, request.seed)
        return SessionFacts(
            model_sha256=model.sha256,
            inputs=signature,
            runtime=created.runtime,
            placement=sessions.placement(created.session, provider.ep_name),
            rejections=created.rejections,
            faults=created.faults,
            samples=self._corpus.facts,
            create_seconds=created.create_seconds,
            edges=model.edges(),
            notes=("nodes were named in a copy in memory",) if model.renamed else (),
        )

    def _replay(self, request: wire.Replay) -> Replays:
        from monitor.probe.replay import replay

        return replay(self._session, self._corpus, request, self._abandoned)

    def _audit(self, request: wire.Audit) -> Profile:
        from monitor.probe.replay import run_once
        from monitor.probe.trace import read_profile

        runs, start = 0, time.monotonic()
        most = min(request.runs, len(self._corpus))
        for index in range(most):
            if runs and (self._abandoned.is_set() or time.monotonic() - start > request.budget):
                break
            feeds = self._corpus.load(index)
            outputs = run_once(self._session, feeds)
            runs += 1
            if request.outputs is not None:
                self._keep(Path(request.outputs), index, most, feeds, outputs)
        path = Path(self._session.end_profiling())
        try:
            return read_profile(path, runs, self._ep_name)
        finally:
            path.unlink(missing_ok=True)

    def _keep(self, folder: Path, index: int, runs: int, feeds: Any, outputs: list[Any]) -> None:
        from monitor.probe.outputs import keep

        names = [output.name for output in self._session.get_outputs()]
        with contextlib.suppress(OSError):  # a full disk costs the comparison, which then says so, not the audit
            keep(folder, index, runs, feeds, names, outputs)


def _watch(requests: int, abandoned: threading.Event) -> None:
    """Set ``abandoned`` when the other end of the request pipe closes: the parent has closed it, or has died."""
    poll = select.poll()
    poll.register(requests, 0)  # hang-up is always reported
    poll.poll()
    abandoned.set()
    time.sleep(LAST_WORD)
    os._exit(1)


def main() -> None:
    """Serve requests until the parent closes the pipe."""
    # systemd or a terminal may signal the whole group; only the parent decides when the probe goes
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    receive, send = (int(fd) for fd in sys.argv[sys.argv.index("--fds") + 1 :][:2])
    with (
        tempfile.TemporaryDirectory(prefix="npumon-probe-") as scratch,
        os.fdopen(receive, "rb") as requests,
        os.fdopen(send, "wb") as replies,
    ):
        abandoned = threading.Event()
        threading.Thread(target=_watch, args=(receive, abandoned), daemon=True).start()
        probe = Probe(Path(scratch), abandoned)
        while header := requests.read(wire.HEADER.size):
            request = wire.decode_request(requests.read(wire.frame_length(header)))
            reply = probe.answer(request)
            if abandoned.is_set():
                break
            replies.write(wire.encode(reply))
            replies.flush()
    # skip interpreter and library teardown: native destructors of a device that is gone can hang
    os._exit(0)


if __name__ == "__main__":
    main()
