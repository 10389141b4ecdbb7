"""The one door through which execution providers come in.

Plugin execution providers are Python packages ``onnxruntime_<name>`` with ``get_library_path()`` and
``get_ep_name()`` (the convention of onnxruntime's plugin packages). Whatever is peculiar to one of them (where it
really runs, how its log reads, what its errors mean) lives in a module of its own and is registered in
:data:`_SPECIAL`; a package without one works too, with its log passed on unread.
"""

from __future__ import annotations

import importlib
import mmap
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import onnxruntime as ort

from monitor.errors import MeasureError
from monitor.records import DeepRow, Failure, Fault, Rejection, Target

WARNING, ERROR = 2, 3


class LogLine(NamedTuple):
    """One line of the runtime's log, as its callback delivers it."""

    severity: int
    location: str
    message: str


class LogReading(NamedTuple):
    """What a provider's log said when the session was created."""

    rejections: tuple[Rejection, ...]
    faults: tuple[Fault, ...]
    backend_version: str | None


class Context(NamedTuple):
    """One precompiled context (``EPContext`` node): its string attributes, and the model's metadata."""

    attributes: Mapping[str, str]
    metadata: Mapping[str, str]


class DeepCounts(NamedTuple):
    """What a provider's own profile holds of one inference, summed over its partitions, in seconds and cycles.

    ``call`` contains ``accelerator`` contains ``busy``; ``None`` where the provider gives no such reading. ``cycles``
    is the accelerator's own total. ``partial`` says why there are no sums.
    """

    rows: tuple[DeepRow, ...] = ()
    cycles: int | None = None
    call: float | None = None
    accelerator: float | None = None
    busy: float | None = None
    partial: str | None = None


class DeepSource(Protocol):
    """A provider's own profile, written into a folder by a session that has :attr:`options`."""

    options: dict[str, str]

    def mark(self) -> None:
        """The next inference begins here."""

    def size(self) -> int:
        """Bytes written so far to the longest file."""

    def read(self, limit: int) -> list[DeepCounts]:
        """One for each mark; a file that reached ``limit`` bytes is partial."""


class Provider:
    """A plugin execution provider, found by the name of its package."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.package = f"onnxruntime_{name}"
        try:
            self.module = importlib.import_module(self.package)
            self.library = Path(self.module.get_library_path())
            self.ep_name = str(self.module.get_ep_name())
        except (ImportError, AttributeError, OSError) as error:
            raise _missing(name, f"the package {self.package} cannot be used: {error}") from error
        if not self.library.is_file():
            raise _missing(name, f"its library {self.library} is not there")

    def devices(self) -> list[Any]:
        """Register the library and return its devices; empty where the board has none.

        Raises :class:`MeasureError` (``provider_missing``) if the library does not load.
        """
        try:
            ort.register_execution_provider_library(self.ep_name, str(self.library))
        except Exception as error:
            raise _missing(self.name, f"its library does not load: {one_line(error)}") from error
        return [device for device in ort.get_ep_devices() if device.ep_name == self.ep_name]

    def version(self) -> str:
        """Version of the installed package."""
        try:
            return metadata.version(self.package)
        except metadata.PackageNotFoundError:
            return "unknown"

    def options(self, configured: Mapping[str, str]) -> dict[str, str]:
        """The EP options that the session gets: the configured ones, verbatim."""
        return dict(configured)

    def for_soc(self, soc: str) -> dict[str, str]:
        """The options that make a session one for ``soc``; raises ``session_failed`` where none is known to."""
        detail = f"execution provider {self.name}: npumon does not know its option that selects a SoC"
        raise MeasureError(Failure("session_failed", detail, "audit it once per SoC with -o, on each board"))

    def target(self, devices: list[Any]) -> Target:
        """What the accelerator's backend is on this machine, provided that it comes up."""
        return "hexagon" if platform.machine() == "aarch64" else "simulator"

    def wants(self, line: LogLine) -> bool:
        """Whether a log line has to be kept for :meth:`read_log`."""
        return line.severity >= ERROR

    def read_log(self, lines: Iterable[LogLine]) -> LogReading:
        """Reasons and faults in the lines that :meth:`wants` kept."""
        return LogReading((), tuple(Fault("other", one_line(line.message)) for line in lines), None)

    def context_faults(self, contexts: Iterable[Context], configured: Mapping[str, str]) -> list[Fault]:
        """What is known, before loading, to be foreign about a precompiled model; nothing for a provider not known."""
        return []

    def deep(self, folder: Path) -> DeepSource | None:
        """The provider's own profile, to be written into ``folder``; ``None`` if npumon knows of none."""
        return None

    def context_mend(self, error: str) -> str:
        """What mends a precompiled model that does not load, although nothing about it is foreign."""
        return "compile the context again on this board's SDK; its binary may be cut"

    def ignored_options(self, configured: Mapping[str, str]) -> list[Fault]:
        """Options whose name does not occur in the provider's library: nothing can ever read them.

        The runtime says nothing about them (measured with onnxruntime 1.32), so a typing mistake would go unseen.
        """
        with self.library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as library:
            # at the end of a C string: a name cut short would be found within the right one
            known = {name for name in configured if library.find(name.encode() + b"\0") >= 0}
        return [
            Fault(
                "option_ignored",
                f"options.{name}: the execution provider {self.name} does not know this option and ignores it",
                f"correct or remove options.{name}",
            )
            for name in configured
            if name not in known
        ]


def find(name: str) -> Provider:
    """The provider whose package is ``onnxruntime_<name>``; raises ``provider_missing`` if there is none."""
    special = _SPECIAL.get(name)
    if special is None:
        return Provider(name)
    module, class_name = special
    found: type[Provider] = getattr(importlib.import_module(module), class_name)
    return found(name)


def one_line(text: object, limit: int = 300) -> str:
    """``text`` without line breaks, cut at ``limit`` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _missing(name: str, why: str) -> MeasureError:
    mend = f"install onnxruntime-{name} for this interpreter, or correct runtime.provider"
    return MeasureError(Failure("provider_missing", f"execution provider {name}: {why}", mend))


_SPECIAL = {"qnn": ("monitor.probe.qnn", "Qnn")}
