"""The ``gate`` command: one exit code for a staging fleet, from what a Prometheus knows of it."""

from __future__ import annotations

import os
import sys
import time
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from monitor import console
from monitor.errors import EXIT_HEALTHY, EXIT_UNMEASURED, EXIT_WORSE, NpumonError, UsageError

if TYPE_CHECKING:
    from monitor.records.gate import GateResult
    from monitor.service.gate import Asked
    from monitor.service.prometheus import Login

_EXITS = {"pass": EXIT_HEALTHY, "fail": EXIT_WORSE, "unmeasured": EXIT_UNMEASURED}
_FILE = click.Path(path_type=Path)


class _Number(click.FloatRange):
    """A range that nan is not in, which is neither below nor above anything: with such a bound nothing would fail."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not isfinite(number):
            self.fail(f"{value} is no number", param, ctx)
        return number


_SHARE = _Number(0, 1, min_open=True)
"""Of nothing: a share of 0 would be met without any board."""


@click.command(
    epilog="Exit codes: 0 pass, 1 fail, 2 bad arguments or a query that Prometheus refuses, 3 could not measure."
)
@click.option("--prometheus", "url", required=True, metavar="URL", help="Its URL before /api/v1, with a prefix if any.")
@click.option("--match", required=True, metavar="SELECTOR", help="The boards to judge, by labels of their targets.")
@click.option("--baseline-match", metavar="SELECTOR", help="The boards to compare them with. Without: no comparison.")
@click.option("--window", default="24h", show_default=True, help="How far back to look.")
@click.option("--soak", default="8h", show_default=True, help="How long a board must have been measured.")
@click.option(
    "--boards", type=click.IntRange(1), metavar="N", help="How many there should be. Default: all ever heard of."
)
@click.option("--model", "models", multiple=True, metavar="NAME", help="Only this model; may be given again.")
@click.option(
    "--share-reporting",
    type=_SHARE,
    default=0.9,
    show_default=True,
    help="Least share of boards that must be measured.",
)
@click.option(
    "--share-healthy", type=_SHARE, default=0.99, show_default=True, help="Least share of time, over all boards."
)
@click.option("--slower", type=_Number(1), default=1.1, show_default=True, help="Most times a cohort may be as slow.")
@click.option(
    "--op-share",
    type=_Number(0, 1),
    default=0.01,
    show_default=True,
    help="Share of FLOPs that a new op may have.",
)
@console.JSON_OPTION
@click.option("--junit", type=_FILE, metavar="FILE", help="Also write JUnit XML: a test case a criterion and model.")
@click.option("--user", help="Name to log in with. Password: NPUMON_PROMETHEUS_PASSWORD or --password-file.")
@click.option("--password-file", type=_FILE, metavar="FILE", help="Its first line is the password.")
@click.option("--bearer-token-file", "token_file", type=_FILE, metavar="FILE", help="Its first line is a token.")
@click.option("--ca-file", type=_FILE, metavar="FILE", help="The authority of Prometheus' certificate (PEM).")
@click.option("--cert", type=_FILE, metavar="FILE", help="A certificate to show to Prometheus (PEM).")
@click.option("--key", type=_FILE, metavar="FILE", help="Its private key (PEM).")
@click.option("--timeout", default="2m", show_default=True, help="For each query.")
def gate(url: str, as_json: bool, junit: Path | None, timeout: str, **given: Any) -> None:
    """Judge a staging fleet by what a Prometheus knows of it: pass, fail, or could not measure.

    \b
    boards    enough boards answer, with a fresh check on hardware
    soak      enough boards were measured for long enough
    healthy   the models were healthy for enough of the time
    cohorts   no SoC and version is slower, or less healthy, than the baseline
    ops       no op fell back that does not on the baseline

    A pass holds whatever the boards that are silent would have said: missing data is never a pass.

    \b
    All boards of a staging job, over the last day:
      npumon gate --prometheus https://prom.example:9090 --match 'job="npumon-staging"'
    The canaries of a rollout against the others:
      npumon gate --prometheus https://prom.example:9090 --soak 4h --window 6h \\
        --match 'job="npumon", ring="canary"' --baseline-match 'job="npumon", ring="stable"'
    """  # noqa: D301 - click wants the backspace character itself
    from monitor.outputs import gate as written

    # From the start the file is no pass: not what an earlier run left, nor what a job leaves that is killed.
    _keep(junit, written.failure_junit(time.time(), "the gate did not come to its end"))
    try:
        result = _judged(url, timeout, given)
    except NpumonError as error:
        _keep(junit, written.failure_junit(time.time(), str(error)))
        if as_json and error.exit_code == EXIT_UNMEASURED:
            console.print_json(written.failure_document(time.time(), str(error)))
        console.fail(str(error), error.exit_code)
    _keep(junit, written.junit(result))
    if as_json:
        console.print_json(written.document(result))
    else:
        click.echo(written.table(result, console.colour()))
    sys.exit(_EXITS[result.outcome])


def _judged(url: str, timeout: str, given: dict[str, Any]) -> GateResult:
    """The verdict; raises :class:`NpumonError`."""
    from monitor.service.gate import gate
    from monitor.service.prometheus import Prometheus

    seconds, question = _seconds("--timeout", timeout), _asked(given)
    return gate(Prometheus(url, _login(given), seconds), question)


def _keep(file: Path | None, text: str) -> None:
    """Write ``text`` into ``file``, if one was asked for; one line and exit code 2 if it cannot be written."""
    if file is None:
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        console.fail(f"--junit: {file}: {os.strerror(error.errno or 0)}; name a file in a folder that can be written")


def _login(given: dict[str, Any]) -> Login:
    from monitor.service.prometheus import Login

    return Login(**{name: given[name] for name in Login.__struct_fields__})


def _asked(given: dict[str, Any]) -> Asked:
    """What the options ask for; raises :class:`UsageError`."""
    from monitor.records.gate import Bounds
    from monitor.service.gate import Asked
    from monitor.service.prometheus import selector

    window, soak = _seconds("--window", given["window"]), _seconds("--soak", given["soak"])
    if soak > window:
        raise UsageError(
            f"--soak: {given['soak']} does not fit in a window of {given['window']}; raise --window or lower --soak"
        )
    baseline = given["baseline_match"]
    return Asked(
        match=selector("--match", given["match"]),
        baseline_match=None if baseline is None else selector("--baseline-match", baseline),
        boards=given["boards"],
        models=given["models"],
        bounds=Bounds(
            window, soak, given["share_reporting"], given["share_healthy"], given["slower"], given["op_share"]
        ),
    )


def _seconds(option: str, words: str) -> float:
    from monitor.duration import parse_duration

    try:
        seconds = parse_duration(words)
    except ValueError:
        seconds = 0.0
    if seconds < 1:
        raise UsageError(f"{option}: expected a duration of a second or more, as 24h or 90s, got {words[:40]!r}")
    return seconds
