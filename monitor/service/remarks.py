"""What is worth a line besides the events, each said once: settings that do nothing, samples that do not fit, waits."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final

import msgspec

from monitor.records import CheckResult

MOST: Final = 100
"""Lines of one check. Another model may make thousands of samples useless at once, and journald drops what comes faster
than 10,000 lines in 30 s, alerts too."""
_SAMPLE: Final = "sample_rejected"


class Remarks:
    """Which remarks were made about which model; bounded, however often an application replaces its samples."""

    def __init__(self) -> None:
        self._made: set[tuple[str, ...]] = set()

    def of(self, result: CheckResult) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and fields of each line that this check is the first to call for."""
        rejected = result.samples.rejected if result.samples else ()
        samples = [msgspec.to_builtins(sample) for sample in rejected]
        # Files that have gone are forgotten: those that replace them have new names without end.
        present = {(_SAMPLE, result.model, *sample.values()) for sample in samples}
        self._made -= {one for one in self._made if one[:2] == (_SAMPLE, result.model)} - present
        lines = [("check_note", {"detail": note}) for note in result.notes] + [(_SAMPLE, sample) for sample in samples]
        new = [line for line in lines if self.first(line[0], result.model, *line[1].values())]
        yield from new[:MOST]
        if len(new) > MOST:
            yield "check_note", {"detail": f"{len(new) - MOST} more files do not fit the model"}

    def first(self, name: str, model: str, *details: str) -> bool:
        """Whether this has not been said yet; from now on it has."""
        remark = (name, model, *details)
        new = remark not in self._made
        self._made.add(remark)
        return new

    def keep(self, models: Collection[str]) -> None:
        """Forget what was said of all other models."""
        self._made = {one for one in self._made if one[1] in models}

    def __len__(self) -> int:
        return len(self._made)
