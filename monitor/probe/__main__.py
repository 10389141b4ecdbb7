"""The child process: ``python -m monitor.probe --fds R W``. Reads requests, answers with records, decides nothing.

Native code may print, hang or die; that is why it lives here. When the parent closes the request pipe (or dies), the
running inference is allowed to finish before the process goes: killing it in the middle leaks DSP maps on the board.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from monitor import wire
from monitor.errors import MeasureError
from monitor.probe import lifeline
from monitor.probe.priority import Priority, step_back
from monitor.records import Failure, Profile, Replays, SessionFacts


class Probe:
    """One model's session, from its creation to the end of the process."""

    def __init__(self, scratch: Path, abandoned: threading.Event) -> None:
        self._scratch = scratch
        self._abandoned = abandoned
        self._session: Any = None
        self._corpus: Any = None
        self._ep_name = ""
        self._priority: Priority | None = None

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
                    step_back()
                    from monitor.probe import study

                    return wire.Studied(study.make(request.spec, request.runs))
                case wire.Deepen():
                    from monitor.probe import deep

                    return wire.Deepened(deep.deepen(request, self._scratch, self._abandoned))
                case wire.Compare():
                    step_back()
                    from monitor.probe import compare

                    return wire.Compared(compare.compare(request))
        except MeasureError as error:
            return wire.Failed(error.failure, error.rejected)
        except Exception as error:
            return wire.Failed(Failure("internal", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))

    def _open(self, request: wire.Open) -> SessionFacts:
        self._priority = Priority()  # before the imports, which can wait as well
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

        assert self._priority is not None  # made with the session
        return replay(self._session, self._corpus, request, self._abandoned, self._priority)

    def _audit(self, request: wire.Audit) -> Profile:
        from monitor.probe.replay import run_once
        from monitor.probe.trace import read_profile

        assert self._priority is not None  # made with the session
        runs, start = 0, time.monotonic()
        most = min(request.runs, len(self._corpus))
        for index, feeds in self._corpus.first(most):
            if runs and (self._abandoned.is_set() or time.monotonic() - start > request.budget):
                break
            with self._priority.own():
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


def main() -> None:
    """Serve requests until the parent closes the pipe."""
    receive, send = (int(fd) for fd in sys.argv[sys.argv.index("--fds") + 1 :][:2])
    with (
        tempfile.TemporaryDirectory(prefix="npumon-probe-") as scratch,
        os.fdopen(receive, "rb") as requests,
        os.fdopen(send, "wb") as replies,
    ):
        abandoned = lifeline.hold(receive)
        probe = Probe(Path(scratch), abandoned)
        while header := requests.read(wire.HEADER.size):
            request = wire.decode_request(requests.read(wire.frame_length(header)))
            reply = probe.answer(request)
            if abandoned.is_set():
                break
            replies.write(wire.encode(reply))
            replies.flush()
    lifeline.let_go()


if __name__ == "__main__":
    main()
