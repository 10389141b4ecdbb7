"""The fuzzer: ``python -m tests.fuzz [TARGET...] [-runs=N]``, as ``make fuzz`` calls it.

Atheris (libFuzzer for Python) mutates the seeds, guided by the lines that they reach, in a process for each target. A
finding is left under build/fuzz; once mended it is kept in corpus/TARGET, where the tests read it again.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "fuzz"
LIMITS = ("-timeout=20", "-rss_limit_mb=2048", "-max_len=16384", "-seed=1", "-print_final_stats=0", "-verbosity=0")
INSTRUMENTED = ["monitor", "zipfile", "tomllib", "numpy.lib"]


def main() -> None:
    """Fuzz the targets that are named, or all; exit with 1 if there was a finding."""
    options = [argument for argument in sys.argv[1:] if argument.startswith("-")]
    names = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    if options[:1] == ["--one"]:
        _fuzz(names[0], options[1:])
        return
    from tests.fuzz.targets import TARGETS

    if unknown := set(names) - TARGETS.keys():
        sys.exit(f"{', '.join(sorted(unknown))}: no such target; there are {', '.join(TARGETS)}")
    found = 0
    for name in names or TARGETS:
        start = time.monotonic()
        runs = [] if any(option.startswith("-runs=") for option in options) else [f"-runs={TARGETS[name].runs}"]
        done = subprocess.run([sys.executable, "-m", "tests.fuzz", name, "--one", *runs, *options], check=False)
        said = "nothing found" if done.returncode == 0 else f"FINDING, in {BUILD / name}"
        print(f"{name}: {' '.join(runs)} {time.monotonic() - start:.0f} s: {said}", flush=True)
        found += done.returncode != 0
    sys.exit(bool(found))


def _fuzz(name: str, options: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.targets import TARGETS

    target, build = TARGETS[name], BUILD / name
    shutil.rmtree(build, ignore_errors=True)
    for folder in ("seeds", "corpus", "work"):
        (build / folder).mkdir(parents=True)
    for number, seed in enumerate(target.seeds()):
        (build / "seeds" / str(number)).write_bytes(seed)
    work = build / "work"

    def once(data: bytes) -> None:
        try:
            target.read(data, work)
        finally:
            for left in work.iterdir():
                left.unlink()

    folders = [build / "corpus", build / "seeds", HERE / "corpus" / name]
    arguments = [sys.argv[0], *LIMITS, f"-artifact_prefix={build}/", *options, *(str(f) for f in folders if f.is_dir())]
    atheris.Setup(arguments, once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
