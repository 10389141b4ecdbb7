"""An ``InferenceSession`` that tells a tap of its calls, for applications that would rather change one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

from monitor.capture.tap import InputTap


class TappedSession:
    """Stands where ``session`` stood: every method and attribute is the session's own, ``run`` is timed and offered.

    ``run_with_iobinding``, ``run_with_ortvaluevector`` and ``run_async`` are passed on as they are: the first two have
    no inputs by name, the last ends where nobody can time it.
    """

    def __init__(self, session: Any, tap: InputTap) -> None:
        self._session = session
        self._tap = tap

    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: Any = None) -> Any:
        """As ``InferenceSession.run``, with the same errors; a call that fails is not counted."""
        return self._timed(self._session.run, output_names, input_feed, run_options)

    def run_with_ort_values(
        self, output_names: Sequence[str] | None, input_dict_ort_values: Mapping[str, Any], run_options: Any = None
    ) -> Any:
        """As ``InferenceSession.run_with_ort_values``."""
        return self._timed(self._session.run_with_ort_values, output_names, input_dict_ort_values, run_options)

    def _timed(self, run: Callable[..., Any], names: Any, feeds: Mapping[str, Any], options: Any) -> Any:
        start = perf_counter()
        outputs = run(names, feeds, options)
        self._tap.offer(feeds, perf_counter() - start)
        return outputs

    def __getattr__(self, name: str) -> Any:
        # Looked up past this very method, which copying calls before there is a session.
        return getattr(object.__getattribute__(self, "_session"), name)
