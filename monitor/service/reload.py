"""The configuration read again while the daemon runs: what it changes, and the way out for what it replaces.

A reload is all or nothing, so everything that can fail is done first and here: reading the file, and refusing what
only a restart can change. What replaces a probe must not stand beside it on the accelerator, and what a probe is
computing may end: :class:`Retired` sees to both.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from monitor.config import Config, Model, load
from monitor.document import digest_of
from monitor.errors import UsageError
from monitor.service.check import Checker


class Changes(NamedTuple):
    """The models' names, by what a reload does to them, in the order of the configuration."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    unchanged: tuple[str, ...]


def read(old: Config) -> Config:
    """The configuration file as it is now. Raises :class:`UsageError` if it cannot take the place of ``old``."""
    new = load(old.file)
    if new.state != old.state:
        raise UsageError(
            f"{old.file}: monitor.state: {new.state} instead of {old.state} takes a restart; restart npumon or undo it"
        )
    return new


class Watch:
    """The configuration file, looked at now and then: whether it holds what nobody has tried to take yet.

    By content, so that a file that is touched, restored or swung by a symbolic link (as Kubernetes does) is seen for
    what it is. An editor may write in pieces: a content counts once it is the same at two looks.
    """

    def __init__(self, config: Config) -> None:
        self._file = config.file
        self._tried = self._seen = config.digest

    def changed(self) -> bool:
        """Whether there is something new to take, at rest since the last look."""
        before, self._seen = self._seen, digest_of(self._file)
        return self._seen == before and self._seen != self._tried

    def tried(self) -> None:
        """Call before the file is read to be taken: good or bad, it is not tried again until it changes."""
        self._tried = digest_of(self._file)


def changes(old: Config, new: Config) -> Changes:
    """What becomes of each model. Another provider changes them all; the ``[monitor]`` table changes none."""
    before, after = ({model.name: model for model in config.models} for config in (old, new))
    kept = [name for name in after if name in before]
    equal = {name for name in kept if old.provider == new.provider and _equal(before[name], after[name])}
    return Changes(
        added=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
        changed=tuple(name for name in kept if name not in equal),
        unchanged=tuple(name for name in kept if name in equal),
    )


class Retired:
    """Checkers on their way out, each closed in a thread of its own within ``grace`` seconds.

    One thread adds; any may ask and wait.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._leaving: tuple[tuple[str, Checker, threading.Thread], ...] = ()

    def add(self, name: str, checker: Checker) -> None:
        """Close ``checker``: the inference that it runs may end, the check around it is given up."""
        thread = threading.Thread(target=checker.close, args=(self._grace,), name=f"retire {name}", daemon=True)
        thread.start()
        self._leaving = (*(one for one in self._leaving if one[2].is_alive()), (name, checker, thread))

    @property
    def checkers(self) -> list[Checker]:
        """Those that are not gone yet."""
        return [checker for _, checker, thread in self._leaving if thread.is_alive()]

    def wait(self, name: str | None = None) -> None:
        """Wait until the checkers of this model, or all, are gone."""
        for left, _, thread in self._leaving:
            if name in (None, left):
                thread.join()


def _equal(one: Model, other: Model) -> bool:
    # 1, 1.0 and true are equal in Python, and different texts for onnxruntime.
    return one == other and all(type(value) is type(other.session[key]) for key, value in one.session.items())
