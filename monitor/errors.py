"""npumon's errors, which are part of its interface.

    NpumonError                 anything npumon reports as one line on stderr
    ├── UsageError              2: bad configuration or arguments; the message names file, key and mend
    │   └── PassingError        3: what is configured cannot be had now, and may be later
    └── MeasureError            3: a measurement could not be made; carries a bounded reason

A message is always a single line. A traceback never reaches a user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from monitor.records import Failure, RejectedSample

EXIT_HEALTHY, EXIT_WORSE, EXIT_USAGE, EXIT_UNMEASURED = 0, 1, 2, 3


class NpumonError(Exception):
    """Base of all errors that a user sees; ``exit_code`` is what the command ends with."""

    exit_code: ClassVar[int]


class UsageError(NpumonError):
    """The user's configuration or arguments cannot be used."""

    exit_code = EXIT_USAGE


class PassingError(UsageError):
    """What is configured cannot be had: an address before the network is up, a state on a disk that is full.

    It may be a mistake, or pass by itself: a supervisor tries again, which it does not with a bad configuration.
    """

    exit_code = EXIT_UNMEASURED


class MeasureError(NpumonError):
    """A measurement could not be made; ``failure`` says why in a record that crosses the pipe.

    ``rejected`` are the sample files that did not fit, where that is why.
    """

    exit_code = EXIT_UNMEASURED

    def __init__(self, failure: Failure, rejected: tuple[RejectedSample, ...] = ()) -> None:
        super().__init__(failure.detail + (f"; {failure.mend}" if failure.mend else ""))
        self.failure = failure
        self.rejected = rejected


def mend_of(error: OSError) -> str:
    """What helps where the file of a model cannot be read."""
    if isinstance(error, PermissionError):
        return "let the service's user read it"
    return "deploy the model or correct models.path"
