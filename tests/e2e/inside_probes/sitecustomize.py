"""What tests need inside of probes and cannot reach from outside; all else in a probe is as it is.

The interpreter imports this at its start where this folder is on PYTHONPATH.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

if "monitor.probe" in sys.orig_argv:
    # A limit on the size of files that stands in for the daemon's full disk is not meant for the probe's scratch files.
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    # Nobody can see how the child of another process ended. A probe that finishes its inference leaves by os._exit(0);
    # one that is killed writes nothing.
    leave = os._exit

    def note_and_leave(code: int) -> None:
        """Write the exit code to a file named after the process, then leave."""
        if folder := os.environ.get("NPUMON_TEST_EXITS"):
            Path(folder, str(os.getpid())).write_text(str(code))
        leave(code)

    os._exit = note_and_leave  # type: ignore[assignment]

    # One at a time, so that a test sees which of the two bounds has ended its probe.
    for bound in ("LAST_WORD", "LOCKED"):
        if seconds := os.environ.get(f"NPUMON_TEST_{bound}"):
            from monitor.probe import lifeline

            setattr(lifeline, bound, float(seconds))

    if faults := os.environ.get("NPUMON_TEST_FAULTS"):
        # a folder beside this one, on the path in the tests' checkout only
        from tests.faults import inside_probe

        inside_probe.install(Path(faults))

    if planted := os.environ.get("NPUMON_TEST_SOAK"):
        from tests.soak import inside_probe as over_time

        over_time.install(Path(planted))

if os.environ.get("NPUMON_TEST_SUBREAPER") and "monitor" in sys.orig_argv:
    # Orphans fall to a container's first process; this makes the daemon such a one (PR_SET_CHILD_SUBREAPER, prctl(2)).
    import ctypes

    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
