"""The pipe between parent and probe: one msgpack record per frame, each behind its length.

The parent sends one request and waits for one reply; there is never more than one in flight. A frame is a 4-byte
big-endian length and that many bytes of msgpack. Whatever is longer than ``FRAME_LIMIT`` or does not decode is
nonsense, and the reader raises :class:`ProtocolError`.
"""

from __future__ import annotations

import signal
import struct
from typing import TypeVar

import msgspec
from msgspec import Struct

from monitor.records import (
    Comparison,
    DeepReading,
    Failure,
    Profile,
    RejectedSample,
    Replays,
    SessionFacts,
    Study,
)

FRAME_LIMIT = 64 * 2**20
"""Bytes. The largest frame is a study: one of 360 nodes and eight samples has 0.3 MB, of 20,000 nodes 18 MB (measured).
A longer one would be in the parent twice, received and decoded, before it could be told from nonsense."""
HEADER = struct.Struct(">I")
STRAYS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What systemd, a terminal or an engineer may send to all processes of the service: to stop it, or to have it reload.
Only the parent decides when a probe goes, so it blocks them where it starts one, which unblocks them once it ignores
them."""


class ProtocolError(Exception):
    """The other side does not speak the protocol."""


class Spec(Struct, frozen=True):
    """What a probe needs to know of a model: the part of the configuration that shapes the session.

    ``assumed`` are the sizes that the study found for free dimensions of synthesized inputs. ``soc`` is the SoC to
    predict for, as the provider's own module names it; ``None``: whatever ``options`` say.
    """

    name: str
    path: str
    provider: str
    source: str | None = None
    samples: str | None = None
    dims: dict[str, int] = {}
    assumed: dict[str, int] = {}
    options: dict[str, str] = {}
    session: dict[str, str | int | float | bool] = {}
    soc: str | None = None


class Open(Struct, frozen=True, tag=True):
    """Create the session; answered with :class:`SessionFacts`. ``seed`` shuffles the order of samples."""

    spec: Spec
    seed: int


class Audit(Struct, frozen=True, tag=True):
    """Profile up to ``runs`` inferences on distinct samples, then end profiling for good.

    Answered with :class:`Profile`. No further inference is begun after ``budget`` seconds. ``outputs`` is an existing
    folder that receives what they gave, for :class:`Compare`, or ``None``.
    """

    runs: int
    budget: float
    outputs: str | None = None


class Replay(Struct, frozen=True, tag=True):
    """Time ``count`` inferences one by one after ``warmups``; answered with :class:`Replays`.

    Once ``budget`` seconds have gone by no further one is begun, but two are always timed.
    """

    count: int
    warmups: int
    budget: float


class MakeStudy(Struct, frozen=True, tag=True):
    """Run the model on the CPU and record what it computes; answered with :class:`Study`."""

    spec: Spec
    runs: int


class Deepen(Struct, frozen=True, tag=True):
    """Profile up to ``runs`` inferences with the provider's own profile; answered with :class:`DeepReading`.

    In a session of its own, for which the process must be fresh. No further one is begun after ``budget`` seconds.
    """

    spec: Spec
    runs: int
    budget: float


class Compare(Struct, frozen=True, tag=True):
    """Repeat on the CPU what an :class:`Audit` left in ``folder``; answered with :class:`Comparison`.

    The process allocates at most ``memory`` bytes. Where an error exceeds ``tolerance`` the CPU runs twice.
    """

    spec: Spec
    folder: str
    memory: int
    tolerance: float


class Facts(Struct, frozen=True, tag=True):
    value: SessionFacts


class Profiled(Struct, frozen=True, tag=True):
    value: Profile


class Replayed(Struct, frozen=True, tag=True):
    value: Replays


class Studied(Struct, frozen=True, tag=True):
    value: Study


class Deepened(Struct, frozen=True, tag=True):
    value: DeepReading


class Compared(Struct, frozen=True, tag=True):
    value: Comparison


class Failed(Struct, frozen=True, tag=True):
    """The request could not be met; the probe is still usable unless it then closes the pipe.

    ``rejected`` are the sample files that did not fit, where that is why.
    """

    value: Failure
    rejected: tuple[RejectedSample, ...] = ()


Request = Open | Audit | Replay | MakeStudy | Deepen | Compare
Reply = Facts | Profiled | Replayed | Studied | Deepened | Compared | Failed

_T = TypeVar("_T")
_encoder = msgspec.msgpack.Encoder()


def encode(message: Request | Reply) -> bytes:
    """One whole frame."""
    payload = _encoder.encode(message)
    return HEADER.pack(len(payload)) + payload


def frame_length(header: bytes) -> int:
    """Length of the payload behind ``header``; raises :class:`ProtocolError` if it is beyond belief."""
    (length,) = HEADER.unpack(header)
    if length > FRAME_LIMIT:
        raise ProtocolError(f"a frame of {length} bytes")
    return int(length)


def decode_request(payload: bytes) -> Request:
    """Raises :class:`ProtocolError` on anything that is not a request."""
    return _decode(_requests, payload)


def decode_reply(payload: bytes | memoryview) -> Reply:
    """Raises :class:`ProtocolError` on anything that is not a reply."""
    return _decode(_replies, payload)


_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def _decode(decoder: msgspec.msgpack.Decoder[_T], payload: bytes | memoryview) -> _T:
    try:
        return decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(str(error)) from error
