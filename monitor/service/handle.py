"""One probe process as the parent sees it: started, asked, watched, and put to rest.

The child runs native code that crashes, hangs, prints and leaks. Whatever it does must end as one bounded failure
within the time allowed, leave no zombie and no descriptor behind, and never block the parent. So the protocol has two
pipes of its own that native printing cannot corrupt, every wait has a deadline on the monotonic clock, and a child that
broke its word once is killed, never asked again.

An idle child may fill its output pipe and wait there until the next request or :meth:`ProbeHandle.close` drains it:
nothing it says is lost on the way, and an idle parent spends no CPU on it.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from io import FileIO
from typing import Final, NoReturn, overload

from monitor import wire
from monitor.errors import MeasureError
from monitor.records import Comparison, DeepReading, Failure, FailureReason, Profile, Replays, SessionFacts, Study
from monitor.service import process
from monitor.service.printed import CHUNK, Printed
from monitor.service.scratch import scratch

_ENVIRONMENT: Final = {"ORT_DISABLE_TELEMETRY": "1"}
"""onnxruntime's Linux wheels report sessions and models to their maker unless told not to before the import."""
PROBE: Final = (sys.executable, "-m", "monitor.probe")
OUTPUT_KEPT: Final = 64 * 1024
SLICE: Final = 0.5
"""Longest the parent takes to notice that a request was abandoned, that a child grows, or died behind an open pipe."""
EXIT_LAG: Final = 2.0
"""What a child may take from closing its pipe to being gone, before it counts as one that lives on."""
REAP_TIMEOUT: Final = 5.0
"""A killed process that is still there then is stuck in the kernel; waiting longer would stick the parent too."""

_ANSWERS: Final[dict[type[wire.Request], type[wire.Reply]]] = {
    wire.Open: wire.Facts,
    wire.Audit: wire.Profiled,
    wire.Replay: wire.Replayed,
    wire.MakeStudy: wire.Studied,
    wire.Deepen: wire.Deepened,
    wire.Compare: wire.Compared,
}


class ProbeClosed(Exception):
    """:meth:`ProbeHandle.close` was called: nothing was measured, and nothing failed."""


class ProbeHandle:
    """A child process that answers one request at a time.

    It is started at once, in a session of its own, so that Ctrl-C at a terminal does not cut an inference short.
    ``argv`` is the command; the descriptors of the protocol follow it as ``--fds READ WRITE``. ``memory`` is what it
    may take for itself, in bytes; half of the board's by default. Raises :class:`MeasureError` (``probe_crashed``) if
    no process can be started. :meth:`close` must be called in any case.
    """

    def __init__(self, argv: Sequence[str] = PROBE, memory: int | None = None) -> None:
        self._memory = memory or process.half_the_memory()
        self._looked = -math.inf
        self._lock = threading.Lock()
        self._closing: float | None = None
        self._failure: Failure | None = None
        try:
            with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
                # The child's own files go with it, however it ends.
                folder = ours.enter_context(scratch())
                requests, self._requests = _pipe(theirs, ours)
                self._replies, replies = _pipe(ours, theirs)
                printed, output = _pipe(ours, theirs)
                with process.deaf():
                    self._process = subprocess.Popen(
                        [*argv, "--fds", str(requests.fileno()), str(replies.fileno())],
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        pass_fds=(requests.fileno(), replies.fileno(), folder.lock),
                        start_new_session=True,
                        env={**os.environ, **_ENVIRONMENT, "TMPDIR": folder.path},
                    )
                self._pipes = ours.pop_all()
        except OSError as error:
            raise MeasureError(Failure("probe_crashed", f"cannot start a probe: {error}")) from error
        for pipe in (self._requests, self._replies, printed):
            os.set_blocking(pipe.fileno(), False)
        self._output = Printed(printed, OUTPUT_KEPT)
        self.scratch = folder.path

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether a request can be made: neither broken nor closed, and the process runs and is within its limits."""
        well = self._failure is None and self._closing is None and not self._exited()
        return well and process.excess(self.pid, self._memory) is None

    @property
    def rss(self) -> int | None:
        """Resident memory of the process in bytes; ``None`` once it is gone."""
        if self._process.returncode is not None:
            return None
        return process.resident(self.pid)

    @property
    def stuck(self) -> bool:
        """Whether the process was killed and is still there: the kernel holds it, most likely in a driver."""
        return self._replies.closed and self._process.poll() is None

    @property
    def output(self) -> str:
        """The end of what the process printed, as evidence: at most 64 KiB."""
        return self._output.text

    @overload
    def request(self, message: wire.Open, timeout: float) -> SessionFacts: ...
    @overload
    def request(self, message: wire.Audit, timeout: float) -> Profile: ...
    @overload
    def request(self, message: wire.Replay, timeout: float) -> Replays: ...
    @overload
    def request(self, message: wire.MakeStudy, timeout: float) -> Study: ...
    @overload
    def request(self, message: wire.Deepen, timeout: float) -> DeepReading: ...
    @overload
    def request(self, message: wire.Compare, timeout: float) -> Comparison: ...
    def request(
        self, message: wire.Request, timeout: float
    ) -> SessionFacts | Profile | Replays | Study | DeepReading | Comparison:
        """Ask, and wait at most ``timeout`` seconds for the answer.

        Raises :class:`MeasureError` with what the probe itself reports (it is then still usable), or with
        ``probe_crashed``, ``probe_timeout`` or ``probe_protocol`` (it is then gone, and every later request fails
        alike). Raises :class:`ProbeClosed` if :meth:`close` is called, before or meanwhile.
        """
        with self._lock:
            if self._closing is not None:
                raise ProbeClosed
            if self._failure is not None:
                raise MeasureError(self._failure)
            # Whatever interrupts the exchange, its answer may still come and must not be taken for another's.
            self._failure = Failure("internal", f"an earlier {_name(message)} to the probe was interrupted")
            self._looked = -math.inf
            self._refuse_unasked()
            reply = self._exchange(message, timeout)
            if not isinstance(reply, (_ANSWERS[type(message)], wire.Failed)):
                self._break("probe_protocol", f"the probe answered {_name(message)} with {_name(reply)}")
            self._failure = None
            self._output.answered()
        if isinstance(reply, wire.Failed):
            raise MeasureError(reply.value, reply.rejected)
        return reply.value

    def hang_up(self, grace: float) -> float:
        """Tell the child to go once the running inference has ended, and do not wait for that.

        Gives when its ``grace`` is over, by the monotonic clock; what was said first holds. From any thread.
        """
        if self._closing is None:
            self._closing = time.monotonic() + grace
        if self._lock.acquire(blocking=False):  # else the request that is under way hangs up
            try:
                self._requests.close()
            finally:
                self._lock.release()
        return self._closing

    def close(self, grace: float = 5.0) -> None:
        """Let the running inference end, then the process; kill it only after ``grace`` seconds.

        May be called from any thread, also while another one waits in :meth:`request`, and more than once.
        """
        deadline = self.hang_up(grace)
        with self._lock:
            if not self._replies.closed:
                self._requests.close()
                self._await_exit(deadline)
                self._bury()

    # ------------------------------------------------------------------------------------------ the exchange

    def _exchange(self, message: wire.Request, timeout: float) -> wire.Reply:
        deadline = time.monotonic() + timeout
        unsent = memoryview(wire.encode(message))
        while unsent and self._wait(self._requests, select.POLLOUT, deadline):
            unsent = self._send(unsent)
        received = bytearray()
        while self._wait(self._replies, select.POLLIN, deadline):
            if reply := self._receive(received):
                return reply
        if self._closing is not None:
            raise ProbeClosed
        self._break(
            "probe_timeout",
            f"the probe did not answer {_name(message)} within {timeout:g} s{process.doing(self.pid)}",
            "raise `timeout` if the model may take that long",
        )

    def _wait(self, pipe: FileIO, event: int, deadline: float) -> bool:
        """Wait for ``pipe`` while reading what the child prints; ``False`` when the time is up."""
        while (left := self._left(deadline)) > 0:
            if pipe.closed:
                raise ProbeClosed
            self._refuse_excess()
            waiting = select.poll()
            waiting.register(pipe, event)
            if not self._output.ended:
                waiting.register(self._output.pipe, select.POLLIN)
            ready = {fd for fd, _ in waiting.poll(math.ceil(min(left, SLICE) * 1000))}
            if self._output.pipe.fileno() in ready:
                self._output.take()
            if pipe.fileno() in ready:
                return True
            if not ready and self._exited():
                self._lost()
        return False

    def _left(self, deadline: float) -> float:
        """Seconds left; once the handle is being closed, the child is told so and the grace counts too."""
        if self._closing is not None:
            self._requests.close()
            deadline = min(deadline, self._closing)
        return deadline - time.monotonic()

    def _send(self, unsent: memoryview) -> memoryview:
        try:
            return unsent[self._requests.write(unsent) or 0 :]
        except OSError:
            # The other end is gone; the reply pipe will tell why.
            return unsent[:0]

    def _receive(self, received: bytearray) -> wire.Reply | None:
        """Take what has come; the reply once it is complete."""
        chunk = self._replies.read(CHUNK)
        if not chunk:
            self._lost()
        received += chunk
        try:
            if len(received) < wire.HEADER.size:
                return None
            end = wire.HEADER.size + wire.frame_length(bytes(received[: wire.HEADER.size]))
            if len(received) < end:
                return None
            if len(received) > end:
                raise wire.ProtocolError("more than one answer")
            return wire.decode_reply(memoryview(received)[wire.HEADER.size :])
        except wire.ProtocolError as error:
            self._break("probe_protocol", f"the probe talks nonsense: {error}")

    def _refuse_unasked(self) -> None:
        """Nothing may lie in the reply pipe before a request, or it would be taken for the answer."""
        unasked = self._replies.read(CHUNK)
        if unasked:
            self._break("probe_protocol", f"the probe sent {len(unasked)} bytes unasked")
        if unasked is not None:
            self._lost()

    def _refuse_excess(self) -> None:
        """A child that takes more than its share is ended before the board has to choose whom to kill."""
        now = time.monotonic()
        if now - self._looked < SLICE:
            return
        self._looked = now
        if excess := process.excess(self.pid, self._memory):
            self._break("probe_crashed", f"the probe was ended: {excess.detail}", excess.mend)

    # ---------------------------------------------------------------------------------------------- the end

    def _lost(self) -> NoReturn:
        """The child's end of the pipe is closed: say what became of the child."""
        if self._closing is not None:
            raise ProbeClosed
        self._await_exit(time.monotonic() + EXIT_LAG)
        if not self._exited():
            self._break("probe_protocol", f"the probe closed its pipe and lives on{process.doing(self.pid)}")
        self._bury()
        code = self._process.returncode
        end = f"ended with exit code {code}" if code >= 0 else f"died of {_signal(-code)}"
        said = f": {self._output.last_line}" if self._output.last_line else ""
        mend = "see the kernel's log for its out-of-memory killer" if code == -signal.SIGKILL else ""
        self._break("probe_crashed", f"the probe {end}{said}", mend)

    def _break(self, reason: FailureReason, detail: str, mend: str = "") -> NoReturn:
        """Kill the child and fail, now and at every later request."""
        self._bury()
        self._failure = Failure(reason, detail, mend)
        raise MeasureError(self._failure)

    def _exited(self) -> bool:
        """Whether the process has ended, without reaping it: its id stays its own until :meth:`_bury`."""
        if self._process.returncode is not None:
            return True
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def _await_exit(self, deadline: float) -> None:
        """Wait for the child to go by itself, reading what it prints so that it is not held up by that."""
        while not self._exited() and time.monotonic() < deadline:
            if not self._output.take():
                time.sleep(0.02)

    def _bury(self) -> None:
        """Kill what is left of the child and of its own children, reap it, close the pipes."""
        if self._replies.closed:
            return
        others = process.kill_session(self.pid)
        # One that is stuck in the kernel is reaped by whoever asks for it later, or by subprocess when it is forgotten.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(REAP_TIMEOUT)
            process.reap(self.pid, others, time.monotonic() + REAP_TIMEOUT)
        self._output.take_rest()
        self._pipes.close()


def _pipe(read: contextlib.ExitStack, write: contextlib.ExitStack) -> tuple[FileIO, FileIO]:
    """A pipe's two ends, each left to its owner's stack; children inherit neither unless told to."""
    read_end, write_end = os.pipe()
    return read.enter_context(FileIO(read_end, "rb")), write.enter_context(FileIO(write_end, "wb"))


def _name(message: wire.Request | wire.Reply) -> str:
    return type(message).__name__


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
