"""What makes one check the same as another: the model's bytes, its settings, its samples and the runtime's versions."""

from __future__ import annotations

import errno
import hashlib
import os
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from stat import S_ISREG

from monitor.config import Model
from monitor.errors import MeasureError, mend_of
from monitor.outputs.state import study_key
from monitor.records import Failure
from monitor.wire import Spec


def spec_of(model: Model, provider: str) -> Spec:
    """What a probe needs to know of ``model``."""
    return Spec(
        name=model.name,
        path=str(model.path),
        provider=provider,
        source=str(model.source) if model.source else None,
        samples=str(model.samples) if model.samples else None,
        dims=model.dims,
        options=model.options,
        session=model.session,
    )


def settings_of(model: Model) -> dict[str, str]:
    """What shapes the session of ``model`` besides the provider's options, as texts."""
    settings = {f"dims.{name}": str(size) for name, size in model.dims.items()}
    return settings | {f"session.{name}": str(value) for name, value in model.session.items()}


def identity_of(path: Path, provider: str) -> tuple[object, ...]:
    """Changes when the model's file or the runtime's packages do.

    Raises :class:`MeasureError` (``model_missing``) if there is no such file.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise MeasureError(missing(path, error)) from error
    if not S_ISREG(stat.st_mode):  # reading a pipe or a device may block for ever
        raise MeasureError(missing(path, OSError(errno.EINVAL, "not a regular file")))
    versions = version_of("onnxruntime"), version_of(f"onnxruntime-{provider}")
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino, *versions)


def key_of(spec: Spec) -> tuple[str, str]:
    """The key of a study: model bytes, dims, samples, optimization level and runtime version; and the model's digest.

    Raises :class:`MeasureError` (``model_missing``) if the model cannot be read.
    """
    try:
        sha256, source = sha256_of(spec.path) or "", sha256_of(spec.source) or ""
    except OSError as error:
        raise MeasureError(missing(error.filename, error)) from error
    samples = "synthetic" if spec.samples is None else _digest_of(Path(spec.samples))
    level = str(spec.session.get("graph_optimization_level", ""))
    return study_key(sha256, spec.dims, samples, source, level, version_of("onnxruntime")), sha256


def _digest_of(folder: Path) -> str:
    """Tells one set of sample files from another; what goes away meanwhile, or cannot be looked at, is not in it."""
    digest = hashlib.sha256()
    with suppress(OSError):
        for name in sorted(entry for entry in os.listdir(os.fsencode(folder)) if entry.endswith(b".npz")):
            with suppress(OSError):
                facts = os.stat(os.path.join(os.fsencode(folder), name))
                digest.update(b"%b\0%d %d\0" % (name, facts.st_size, facts.st_mtime_ns))
    return digest.hexdigest()


def sha256_of(path: str | None) -> str | None:
    """Hex digest of a file; ``None`` for no file. Raises :class:`OSError`, also for what is no regular file."""
    if path is None:
        return None
    # without blocking: opening a pipe would wait for a writer
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        return hashlib.file_digest(file, "sha256").hexdigest()


def version_of(package: str) -> str:
    """The installed version of ``package``, or nothing; asked without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def missing(path: Path | str, error: OSError) -> Failure:
    """A model's file that cannot be read."""
    return Failure("model_missing", f"{path}: {error.strerror}", mend_of(error))
