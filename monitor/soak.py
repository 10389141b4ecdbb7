"""The command ``npumon soak``: hours of checks on one board, their report, and two of them compared."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from monitor import console
from monitor.errors import EXIT_HEALTHY, EXIT_UNMEASURED, EXIT_WORSE, UsageError

if TYPE_CHECKING:
    from monitor.config import Config
    from monitor.records.soak import SoakResult
    from monitor.service.soak import Progress

_EXIT_CODES = (
    "Exit codes: 0 all healthy and nothing changed, 1 some verdict is worse or something changed, 2 bad configuration "
    "or arguments, 3 could not measure, or not for as long as it should be."
)
_FOLDER = click.Path(path_type=Path)
_BAR, _BESIDE = 24, 12  # columns of the bar, and of what stands around it but for the text


@click.group(invoke_without_command=True, epilog=_EXIT_CODES, short_help="Check for hours; what drifts, leaks, moves?")
@click.option("-c", "--config", "file", type=_FOLDER, help="The configuration file (TOML).")
@click.option("--duration", metavar="TIME", help="How long to measure in all, as 8h or 90m.")
@click.option("--out", type=_FOLDER, metavar="DIR", help="Where the soak is kept, and its reports.")
@click.option(
    "--pace",
    default="0s",
    show_default=True,
    metavar="TIME",
    help="Between two rounds of checks; `interval` is that of the configuration, 0s is back to back.",
)
@click.option("--model", "only", help="Only the model of this name.")
@console.JSON_OPTION
@click.pass_context
def soak(
    context: click.Context,
    file: Path | None,
    duration: str | None,
    out: Path | None,
    pace: str,
    only: str | None,
    as_json: bool,
) -> None:
    """Check all models again and again for hours, and tell what changed meanwhile.

    Did the latency drift, does it follow the temperature, did memory grow, did ops move, how many stalls? Every replay
    is kept in DIR, beside report.html, summary.json and junit.xml. After a power cut the same command goes on where it
    was. Nothing is throttled: leave the board alone.

    \b
    A night on a board:            npumon soak -c FILE --duration 8h --out DIR
    How does it look by now?       npumon soak report DIR
    Is the new SDK worse?          npumon soak compare OLD_DIR NEW_DIR
    """  # noqa: D301 - click wants the backspace character itself
    if context.invoked_subcommand is not None:
        if file or duration or out or only or as_json or pace != "0s":
            console.fail(f"npumon soak: options of a soak before {context.invoked_subcommand!r}; write them behind it")
        return
    for name, value in (("-c FILE", file), ("--duration TIME", duration), ("--out DIR", out)):
        if value is None:
            console.fail(f"npumon soak: missing {name}; see npumon soak --help")
    assert file is not None
    assert duration is not None
    assert out is not None
    from monitor.service.soak import soak as run

    config = console.load(file)
    models = console.guard(lambda: console.chosen(config, file, only))
    seconds = console.guard(lambda: _duration("--duration", duration, least=1.0))
    rest = console.guard(lambda: _pace(pace, config))
    with _bar(seconds) as tell:
        console.guard(lambda: run(config, models, seconds, rest, out, tell))
    result = _reported(out)
    _print(result, as_json, out)
    if not result.complete:
        left = f"{result.wanted_seconds - result.measured_seconds:.0f} s"
        click.echo(f"npumon soak: ended early, {left} were not measured; the same command goes on", err=True)
    sys.exit(_exit_code(result))


@soak.command(epilog=_EXIT_CODES)
@click.argument("folder", metavar="DIR", type=_FOLDER)
@console.JSON_OPTION
def report(folder: Path, as_json: bool) -> None:
    """Write the reports of the soak in DIR anew, from what is measured so far; also while it runs."""
    result = _reported(folder)
    _print(result, as_json, folder)
    sys.exit(_exit_code(result))


@soak.command(
    epilog="Exit codes: 0 B is not worse, 1 B is worse in some model, 2 bad arguments, 3 it cannot be told of one."
)
@click.argument("a", type=_FOLDER)
@click.argument("b", type=_FOLDER)
@click.option(
    "--bound", default=5.0, show_default=True, type=click.FloatRange(0, 1000), help="Percent B may be slower."
)
@console.JSON_OPTION
def compare(a: Path, b: Path, bound: float, as_json: bool) -> None:
    """Compare two soaks, as before and after a new SDK, firmware or model: whether B is worse than A.

    B is worse if its median is higher for sure and by more than the bound, if more of its FLOPs run on the CPU, if its
    memory is a fifth larger, or if it has a finding that A has not. It is not worse only if the interval of its median
    excludes what is beyond the bound; else it cannot be told.
    """
    from monitor.outputs import soak as words
    from monitor.service.soak_report import compare as compared

    found = console.guard(lambda: compared(a, b, bound / 100))
    if as_json:
        console.print_json(words.comparison_document(found))
    else:
        click.echo(words.comparison_table(found))
    if any(one.worse for one in found):
        sys.exit(EXIT_WORSE)
    sys.exit(EXIT_UNMEASURED if any(one.why for one in found) else EXIT_HEALTHY)


# ------------------------------------------------------------------------------------------------------- parts


def _reported(folder: Path) -> SoakResult:
    from monitor.service.soak_report import read, write

    found = console.guard(lambda: read(folder))
    console.guard(lambda: write(folder, found))
    return found.result


def _print(result: SoakResult, as_json: bool, folder: Path) -> None:
    from monitor.outputs import soak as words

    if as_json:
        console.print_json(words.document(result))
    else:
        click.echo(f"{words.table(result, console.colour())}\n\nreport  {folder / 'report.html'}")


def _exit_code(result: SoakResult) -> int:
    verdicts = {model.verdict for model in result.models}
    if verdicts & {"fallback", "degraded"}:
        return EXIT_WORSE
    return EXIT_HEALTHY if verdicts == {"healthy"} and result.complete else EXIT_UNMEASURED


def _duration(option: str, text: str, least: float = 0.0) -> float:
    from monitor.config import LONGEST
    from monitor.duration import parse_duration

    try:
        seconds = parse_duration(text)
    except ValueError:
        seconds = -1.0
    if not least <= seconds <= LONGEST:
        raise UsageError(f"{option} {text}: expected a duration from {least:g}s to 365d; write 8h, 90m or 30s")
    return seconds


def _pace(text: str, config: Config) -> float:
    return config.interval if text == "interval" else _duration("--pace", text)


@contextmanager
def _bar(seconds: float) -> Iterator[Callable[[Progress], None]]:
    """A bar on stderr for people at a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda progress: None
        return
    from monitor.duration import format_duration
    from monitor.outputs.wording import plural

    # How long it takes is known; from the pace of the bar it would be wrong where a soak goes on.
    bar = click.progressbar(
        length=round(seconds),
        file=sys.stderr,
        width=_BAR,
        show_eta=False,
        show_percent=True,
        item_show_func=lambda text: text or "",
    )

    def tell(progress: Progress) -> None:
        left = format_duration(round(max(progress.wanted - progress.elapsed, 0.0)))
        text = f"{left} left, {plural(progress.checks, 'check')}, {progress.doing}"
        room = shutil.get_terminal_size().columns - _BAR - _BESIDE
        with suppress(OSError):  # a terminal that was closed ends no soak
            bar.update(max(0, int(progress.elapsed) - bar.pos), text[: max(room, 0)])

    bar.render_progress()
    try:
        yield tell
    finally:
        with suppress(OSError):
            bar.render_finish()
