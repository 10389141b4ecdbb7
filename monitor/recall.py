"""The commands about what was recorded: ``events``, ``explain`` and ``baseline``.

They read the daemon's state beside it, and what they change of it they ask the daemon for: it holds the models' state
in memory and writes it at each check, so that an edit from outside would be lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from monitor import console
from monitor.errors import UsageError

if TYPE_CHECKING:
    from monitor.config import Config
    from monitor.outputs.ticket import Case
    from monitor.records import BaselineRequest, Event, ModelState

_READ_EXIT_CODES = "Exit codes: 0 printed, 2 bad configuration or arguments, or nothing was recorded yet."


@click.command(epilog=_READ_EXIT_CODES)
@console.CONFIG_OPTION
@click.option("--model", "only", help="Only the events of the model of this name.")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Most events, the last ones."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one event a line as in the daemon's log.")
def events(file: Path, only: str | None, limit: int, as_json: bool) -> None:
    """Print the recent events of the daemon, the newest last.

    An event is told once, when something changes; all events of an incident have its ID. `npumon explain ID` prints
    an incident in full. The daemon keeps the last 1000 events.
    """
    from monitor.outputs import history
    from monitor.outputs.events import to_json
    from monitor.outputs.log import to_line

    config = console.load(file)
    found = console.guard(lambda: _events(config, file, only))[-limit:]
    if as_json:
        for event in found:
            click.echo(to_line(to_json(event)))
    elif found:
        click.echo(history.table(found, console.colour()))
    else:
        click.echo("no events: nothing has changed since the first check" + (f" of {only}" if only else ""))


@click.command(epilog=_READ_EXIT_CODES)
@console.CONFIG_OPTION
@click.argument("incident", metavar="ID")
def explain(file: Path, incident: str) -> None:
    """Print the incident ID in full, as a text to paste into a ticket.

    It says what was found and when, on which versions and board, which ops are concerned and why, and how to see it
    again. ID is one from `npumon events`; its beginning is enough if no other ID begins so.
    """
    from monitor.outputs import ticket

    config = console.load(file)
    click.echo(ticket.text(console.guard(lambda: _case(config, file, incident))))


@click.group()
def baseline() -> None:
    """Show what counts as normal for a model, or change it.

    npumon learns a model's latency from its first healthy checks, and once more if the model, the runtime's versions,
    the SoC or the settings change. What was learned counts by itself if it is no worse than what was before; otherwise
    it waits for `accept`.

    \b
    What counts as normal?                      npumon baseline show -c FILE
    The latency is as it should be now:         npumon baseline accept -c FILE MODEL
    What was learned is wrong, learn anew:      npumon baseline forget -c FILE MODEL
    """  # noqa: D301 - click wants the backspace character itself


@baseline.command(epilog=_READ_EXIT_CODES, short_help="What is normal, learned, or waits to be accepted.")
@console.CONFIG_OPTION
@click.option("--model", "only", help="Only the model of this name.")
@console.JSON_OPTION
def show(file: Path, only: str | None, as_json: bool) -> None:
    """Print each model's baselines, the open incidents that refer to them, and what was asked and not yet done."""
    from monitor.analysis.baselines import LEARNING, counting
    from monitor.outputs import baselines
    from monitor.records import ModelState

    config = console.load(file)
    names = [model.name for model in console.guard(lambda: console.chosen(config, file, only))]
    states, requests = console.guard(lambda: _states(config))
    holdings = []
    for name in names:
        state = states.get(name, ModelState(name))
        counts = counting(state)
        holdings.append(baselines.Holding(state, LEARNING, counts.id if counts else None, tuple(requests[name])))
    if as_json:
        console.print_json([baselines.document(holding) for holding in holdings])
    else:
        click.echo(baselines.table(holdings))


_ASK_EXIT_CODES = "Exit codes: 0 asked, 2 bad configuration or arguments, or no such model or baseline."


@baseline.command(epilog=_ASK_EXIT_CODES, short_help="Make the present latency of a model its normal one.")
@console.CONFIG_OPTION
@click.argument("model")
@click.argument("baseline", required=False)
def accept(file: Path, model: str, baseline: str | None) -> None:
    """Make the present latency of MODEL its normal one, or with BASELINE that of an older baseline.

    The daemon does it at the model's next check.
    """
    _ask(file, "accept", model, baseline)


@baseline.command(epilog=_ASK_EXIT_CODES, short_help="Drop baselines of a model, and learn anew.")
@console.CONFIG_OPTION
@click.argument("model")
@click.argument("baseline", required=False)
def forget(file: Path, model: str, baseline: str | None) -> None:
    """Drop one BASELINE of MODEL, or all of them; what is normal at present is then learned anew.

    The daemon does it at the model's next check.
    """
    _ask(file, "forget", model, baseline)


# ----------------------------------------------------------------------------------------------------- reading


def _events(config: Config, file: Path, only: str | None) -> list[Event]:
    """The recorded events, oldest first; also those of a model that is no longer configured, if it is asked for."""
    from monitor.outputs.stored import Reader

    with Reader(config.state, config.file) as reader:
        found = reader.events()
    _tell(reader.notes)
    mine = [event for event in found if only in (None, event.model)]
    if not mine:
        console.chosen(config, file, only)
    return mine


def _case(config: Config, file: Path, wanted: str) -> Case:
    """All that is known of the incident whose ID begins with ``wanted``; raises :class:`UsageError`."""
    from monitor.outputs.stored import Reader
    from monitor.outputs.ticket import Case
    from monitor.records import ModelState

    with Reader(config.state, config.file) as reader:
        told, states, results = reader.events(), reader.model_states(), reader.results()
    _tell(reader.notes)
    models = {event.id: event.model for event in told}
    models |= {incident.id: state.model for state in states.values() for incident in state.incidents}
    name = _pick(file, "incident", wanted, list(models), f"npumon events -c {file} lists them")
    model = models[name]
    state = states.get(model, ModelState(model))
    return Case(
        id=name,
        model=model,
        events=tuple(event for event in told if event.id == name),
        incident=next((one for one in state.incidents if one.id == name), None),
        last=results.get(model),
        subject=next((one for one in config.models if one.name == model), None),
        provider=config.provider,
        config=config.file,
    )


def _states(config: Config) -> tuple[dict[str, ModelState], dict[str, list[BaselineRequest]]]:
    """What is remembered of each model, and the requests of each configured one that wait."""
    from monitor.outputs.stored import Reader

    with Reader(config.state, config.file) as reader:
        states = reader.model_states()
        requests = {model.name: [one for _, one in reader.requests(model.name)] for model in config.models}
    _tell(reader.notes)
    return states, requests


def _pick(file: Path, kind: str, wanted: str, names: Sequence[str], listing: str) -> str:
    """The one of ``names`` that is, or begins with, ``wanted``; raises :class:`UsageError`."""
    found = [name for name in names if name == wanted] or [name for name in names if name.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        some = ", ".join(sorted(found)[:4]) + (", …" if found[4:] else "")
        raise UsageError(f"{file}: {wanted}: {len(found)} {kind}s begin so: {some}; write more of the one you mean")
    near = get_close_matches(wanted, names, 3)
    nearest = f" (did you mean {' or '.join(near)}?)" if near else ""
    raise UsageError(f"{file}: {wanted}: no {kind} has this ID{nearest}; {listing}")


def _tell(notes: Sequence[str]) -> None:
    for note in notes:
        click.echo(note, err=True)


# ------------------------------------------------------------------------------------------------------ asking


def _ask(file: Path, action: Literal["accept", "forget"], model: str, baseline: str | None) -> None:
    from monitor.duration import format_duration
    from monitor.outputs.baselines import asked

    config = console.load(file)
    request = console.guard(lambda: _request(config, file, action, model, baseline))
    console.guard(lambda: _leave(config, request))
    click.echo(
        f"{model}: the daemon will {asked(request)} at its next check of the model "
        f"(one every {format_duration(config.interval)}, while npumon run runs)"
    )


def _request(
    config: Config, file: Path, action: Literal["accept", "forget"], model: str, baseline: str | None
) -> BaselineRequest:
    """A request that the daemon can serve; raises :class:`UsageError`."""
    from monitor.records import BaselineRequest

    if model not in {one.name for one in config.models}:
        names = ", ".join(one.name for one in config.models)
        raise UsageError(f"{file}: {model}: no model has this name; there are {names}")
    states, _ = _states(config)
    state = states.get(model)
    if state is None or not state.baselines:
        raise UsageError(f"{file}: {model}: it has no baseline yet; healthy checks of npumon run make one")
    if baseline is not None:
        names_of = [one.id for one in state.baselines]
        listing = f"{model} has {', '.join(names_of)}"
        baseline = _pick(file, "baseline", baseline, names_of, listing)
    if action == "accept":
        _require_level(file, state, baseline)
    return BaselineRequest(model, action, baseline)


def _require_level(file: Path, state: ModelState, baseline: str | None) -> None:
    """There must be something measured to accept; raises :class:`UsageError`."""
    present = state.baselines[0]
    one = next((one for one in state.baselines if one.id == baseline), present)
    if one is present and not (one.medians or state.digests):
        raise UsageError(f"{file}: {state.model}: nothing was measured yet that could be accepted; wait for a check")
    if one is not present and one.median_seconds is None:
        raise UsageError(
            f"{file}: {state.model}: baseline {one.id} was not learned to its end and has no level to accept; "
            f"npumon baseline show -c {file} shows the others"
        )


def _leave(config: Config, request: BaselineRequest) -> None:
    from monitor.outputs.state import State, StateWriteError

    with closing(State.attach(config.state, config.file)) as state:
        try:
            state.request(request)
        except StateWriteError as error:
            raise UsageError(
                f"{config.file}: monitor.state: {error}; free space in {config.state}, or try again"
            ) from error
