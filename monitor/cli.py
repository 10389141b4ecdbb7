"""The ``npumon`` command: arguments in, one composed service call, an exit code out.

Heavy imports wait for the command that needs them.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from monitor import __version__, arguments, gate, recall, soak
from monitor.console import CONFIG_OPTION, JSON_OPTION, chosen, colour, fail, guard, load, print_json
from monitor.errors import EXIT_HEALTHY, EXIT_UNMEASURED, EXIT_WORSE

if TYPE_CHECKING:
    from monitor.config import Config, Model
    from monitor.records import CheckResult, Forecast
    from monitor.service.report import Drawing

EXIT_INTERRUPTED = 130  # as shells have it for SIGINT

EXIT_CODES = """
Exit codes: 0 all healthy, 1 some verdict is worse, 2 bad configuration or arguments, 3 could not measure.
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="npumon")
def npumon() -> None:
    """Watch ONNX models on an NPU for ops that silently fell back to the CPU.

    \b
    Try it here, on the simulator:    npumon demo
    Where do this model's ops run?    npumon audit model.onnx -o soc_model=60
    Check what a board runs:          npumon check -c /etc/npumon/npumon.toml
    Watch it for good:                npumon run -c /etc/npumon/npumon.toml
    What has happened since then?     npumon events -c /etc/npumon/npumon.toml
    """  # noqa: D301 - click wants the backspace character itself


@npumon.command()
@CONFIG_OPTION
@click.option(
    "--textfile",
    type=click.Path(path_type=Path),
    metavar="FILE.prom",
    help="Also write the metrics into FILE.prom, for node_exporter's textfile collector.",
)
def run(file: Path, textfile: Path | None) -> None:
    """Run the daemon: check every model again and again, serve /, /metrics and /healthz, log events.

    Ends with 0 on SIGTERM or SIGINT, with 2 on a bad configuration, with 3 if the address cannot be had
    yet or the disk is full.
    """
    _serve(load(file), textfile=textfile)


@npumon.command(epilog=EXIT_CODES)
@CONFIG_OPTION
@click.option("--model", "only", help="Check only the model of this name.")
@JSON_OPTION
def check(file: Path, only: str | None, as_json: bool) -> None:
    """Check each model of a configuration once, in full: audit, replays, verdict."""
    from monitor.outputs import text

    config = load(file)
    models = guard(lambda: chosen(config, file, only))
    results = _check(config.provider, models, replays=True)
    if as_json:
        print_json([text.check_document(result) for result in results])
    else:
        click.echo(text.check_table(results, colour()))
    sys.exit(_exit_code(results))


@npumon.command(epilog=EXIT_CODES)
@arguments.described
@arguments.EP_OPTION
@arguments.PROVIDER_OPTION
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Also draw the inference into FILE.")
@click.option("--deep", is_flag=True, help="Also what each op costs on the accelerator, in a second session.")
@JSON_OPTION
def audit(provider: str, html: Path | None, deep: bool, as_json: bool, **description: Any) -> None:
    """Show where each op of MODEL ran and why: NPU share by FLOPs, time and nodes, the worst ops, what to do."""
    from monitor.outputs import text

    subject = guard(lambda: arguments.subject(**description))
    drawing = _drawing(html)
    (result,) = _check(provider, [subject], replays=False, deep=deep, drawing=drawing)
    if drawing is not None:
        guard(partial(drawing.write, result))
    if as_json:
        print_json(text.audit_document(result))
    else:
        click.echo(text.audit_table(result, colour()))
    sys.exit(_exit_code([result]))


@npumon.command(
    epilog="Exit codes: 0 every SoC healthy, 1 some SoC falls back, 2 bad arguments, 3 some SoC could not be predicted."
)
@arguments.described
@click.option("--soc", "socs", required=True, metavar="LIST", help="SoCs as the provider names them: 57,58,60.")
@arguments.EP_OPTION
@arguments.PROVIDER_OPTION
@JSON_OPTION
def preflight(socs: str, provider: str, as_json: bool, **description: Any) -> None:
    """Predict where the ops of MODEL run on each SoC: one session a SoC, on the simulator, nothing is timed."""
    from monitor.outputs import preflight as matrix
    from monitor.service.preflight import preflight

    subject = guard(lambda: arguments.subject(**description))
    names = guard(lambda: arguments.listed("--soc", socs))
    with _progress(len(names) + 1) as step:
        result = guard(lambda: preflight(subject, provider, names, partial(step, subject.name)))
    if as_json:
        print_json(matrix.document(result))
    else:
        click.echo(matrix.table(result, colour()))
    sys.exit(_exit_code(result.forecasts))


@npumon.command(epilog="Exit codes: 0 written, 2 bad arguments, 3 the CPU cannot run the model.")
@arguments.described
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The file; beside MODEL, add .study.json.")
def study(out: Path, **description: Any) -> None:
    """Find out on this machine what MODEL computes, so that no board has to run it on its CPU for that.

    Ship the file beside the model as <model file>.study.json: it is used if it fits, and ignored with a note if not.
    """
    from monitor.service.offboard import make_study

    subject = guard(lambda: arguments.subject(**description))
    with _progress(1) as step:
        made = guard(lambda: make_study(subject, out, partial(step, subject.name)))
    nodes = f"{len(made.nodes)} node{'s' * (len(made.nodes) != 1)}"
    inputs = "synthetic inputs" if made.samples == "synthetic" else "files as inputs"
    click.echo(f"{out}: {nodes}, {inputs}, onnxruntime {made.onnxruntime}")
    for note in made.notes:
        click.echo(f"note: {note}")


@npumon.command("check-config")
@click.argument("file", type=click.Path(path_type=Path))
def check_config(file: Path) -> None:
    """Validate a configuration FILE; a mistake is named by line and key. Exit codes: 0 valid, 2 not.

    The certificates and the key of [web] are read too, as the user who runs this may read them.
    """
    from monitor.outputs.access import Access

    config = load(file)
    guard(lambda: Access(config.file, config.web))
    click.echo(f"{file}: valid, {len(config.models)} model{'s' * (len(config.models) != 1)}")


@npumon.command("hash-password")
@click.argument("name", default="prometheus")
def hash_password(name: str) -> None:
    """Make the line that lets NAME in, for [web.users] of the configuration.

    The password is asked for at a terminal, unseen, or is the first line of the standard input.
    """
    from monitor import passwords
    from monitor.document import dotted, quote

    if ":" in name or not name.isprintable() or not name:
        fail(f"npumon hash-password: {quote(name)} is no name, which a colon ends; choose another")
    if sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True).encode()
    else:
        password = sys.stdin.buffer.readline(passwords.LONGEST + 2).rstrip(b"\r\n")
    if not 0 < len(password) <= passwords.LONGEST:
        fail(f"npumon hash-password: expected a password of 1 to {passwords.LONGEST} bytes; give another")
    click.echo(f"{dotted((name,))} = {quote(passwords.line(password))}")


@npumon.command()
@click.option("--listen", default="127.0.0.1:10877", show_default=True, help="Where to serve.")
@click.option("--interval", default="30s", show_default=True, help="Between two checks of a model.")
def demo(listen: str, interval: str) -> None:
    """Run the daemon on the simulator with two models: one falls back silently, one stays on the NPU."""
    from monitor.service.demo import prepare

    with tempfile.TemporaryDirectory(prefix="npumon-demo-") as folder:
        config = guard(lambda: prepare(Path(folder), listen, interval))
        click.echo(
            "npumon demo: this is a SIMULATOR of the Hexagon NPU. Where ops are placed is real and predicts a board;\n"
            "latencies mean nothing.\n"
            "  swift_f0  a published pitch detector: its session lists the NPU, its FLOPs run on the CPU\n"
            "  qdq_cnn   a small quantized network: stays on the NPU\n",
            err=True,
        )

        def announce(address: str) -> None:
            click.echo(
                f"  status page  {address}/\n  metrics      {address}/metrics\n"
                "  events       below, one a line, as soon as the first checks are done\n"
                "Ctrl-C ends it.\n",
                err=True,
            )

        _serve(config, announce)


for _command in (recall.events, recall.explain, recall.baseline, gate.gate, soak.soak):
    npumon.add_command(_command)


def main() -> None:
    """Entry point: whatever goes wrong is one line on stderr, and an exit code that is never mistaken for a verdict."""
    try:
        sys.exit(npumon.main(prog_name="npumon", standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "npumon"
        fail(f"{command}: {_one_line(error.format_message())}; see {command} --help", error.exit_code)
    except click.Abort:
        fail("npumon: interrupted", EXIT_INTERRUPTED)
    except OSError as error:
        where = error.filename or "the output"
        fail(f"npumon: {where}: {error.strerror}; make it writable or free space there", EXIT_UNMEASURED)
    except Exception as error:
        fail(f"npumon: {_defect(error)}", EXIT_UNMEASURED)
    finally:
        # What stdout still holds of a failed write would fail again, with another exit code, when the interpreter ends.
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# ------------------------------------------------------------------------------------------------- helpers


def _serve(
    config: Config, announce: Callable[[str], None] = lambda address: None, textfile: Path | None = None
) -> None:
    from monitor.outputs import log
    from monitor.outputs.textfile import Textfile
    from monitor.service.daemon import Daemon

    log.configure(sys.stdout)
    file = guard(lambda: Textfile(textfile)) if textfile else None
    guard(lambda: Daemon(config, announce, file).run())


def _check(
    provider: str, models: list[Model], replays: bool, deep: bool = False, drawing: Drawing | None = None
) -> list[CheckResult]:
    from monitor.service.check import Checker, check_once
    from monitor.service.studies import Memory

    studies, results = Memory(), []
    with _progress(len(models) * (3 + replays + deep)) as step:
        for model in models:
            observe = drawing.observe if drawing is not None else None
            checker = Checker(model, provider, float("inf"), studies, partial(step, model.name), observe)
            try:
                result = check_once(checker, replays)
                results.append(checker.deepen(result) if deep else result)
            finally:
                checker.close()
    for result in results:
        if result.error:
            mend = f"; {result.error.mend}" if result.error.mend else ""
            click.echo(f"{result.model}: {result.error.detail}{mend}", err=True)
    return results


@contextmanager
def _progress(steps: int) -> Iterator[Callable[[str, str], None]]:
    """A bar on stderr for people at a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda name, text: None
        return
    with click.progressbar(length=steps, file=sys.stderr, item_show_func=lambda text: text or "", width=24) as bar:
        yield lambda name, text: bar.update(1, f"{name}: {text}")


def _drawing(file: Path | None) -> Drawing | None:
    if file is None:
        return None
    from monitor.service.report import Drawing

    return Drawing(file)


def _exit_code(results: Iterable[CheckResult | Forecast]) -> int:
    verdicts = {result.verdict for result in results}
    if verdicts & {"fallback", "degraded"}:
        return EXIT_WORSE
    return EXIT_UNMEASURED if "unknown" in verdicts else EXIT_HEALTHY


def _defect(error: Exception) -> str:
    """One line for what nobody foresaw, with the place that raised it, so that a report of it is of use."""
    import traceback

    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    return f"a defect of npumon: {type(error).__name__} at {where}: {_one_line(str(error))[:300]}; please report it"


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")
