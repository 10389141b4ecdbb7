"""The audit as a picture: keeps what one audit saw long enough to draw it, and writes one HTML file.

The evidence does not travel in the result: the strip of a large model is megabytes that metrics, events and the state
have no use for.
"""

from __future__ import annotations

from pathlib import Path

from monitor.analysis.strip import strip
from monitor.errors import UsageError
from monitor.outputs.strip import render
from monitor.records import CheckResult, Profile, SessionFacts, Strip, Study


class Drawing:
    """The strip of one audit, to be written to ``file``; :meth:`observe` is handed to a ``Checker``."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._strip: Strip | None = None

    def observe(self, facts: SessionFacts, study: Study | None, profile: Profile | None) -> None:
        """Keep what the audit saw."""
        self._strip = strip(facts, study, profile)

    def write(self, result: CheckResult) -> None:
        """Draw ``result``, also where nothing was measured; raises :class:`UsageError` if that cannot be written."""
        page = render(result, None if result.error else self._strip)
        try:
            self.file.write_text(page, encoding="utf-8")
        except OSError as error:
            mend = "name a file that this user may write"
            raise UsageError(f"--html {self.file}: {error.strerror}; {mend}") from error
