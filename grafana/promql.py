"""The expressions that dashboards have in common: what they select, and what they take from the recording rules.

*Fleet* reads what ``rules/npumon.recording.yml`` computed once, so that a screen over thousands of boards stays cheap.
*Board and model* reads plain metrics, and so works without the rules.
"""

from __future__ import annotations

from grafana.panels import VERDICTS

BOARDS = 'job=~"$job", instance=~"$instance"'
MODELS = f'{BOARDS}, model=~"$model"'
BOARD = 'job="$job", instance="$instance"'
MODEL = f'{BOARD}, model="$model"'

ALERTS = (
    'ALERTS{alertname=~"Npumon.*", alertname!="NpumonWatchdog", job=~"$job|", instance=~"$instance|", model=~"$model|"}'
    ' or ALERTS{alertname=~"NpumonRules.*"}'
)
"""Alerts about what is chosen, and those that are about no single board."""
WIDER = ALERTS.replace("{", '{instance="", ')
"""Of these, the ones that are about more than a board."""

COHORT = "model, soc, machine, sha256, samples, target, provider, onnxruntime, provider_version, backend_version"
"""What boards must have in common for their figures to be comparable: the labels of the ``cohort:`` rules."""


def rank(where: str) -> str:
    """The verdict on each model as a number: its position in ``VERDICTS``."""
    states = [f'{n} * npumon_verdict{{{where}, state="{state}"}}' for n, state in enumerate(VERDICTS)]
    return f"max by (job, instance, model) ({' or '.join(states)})"


def worst_rank(where: str) -> str:
    """The verdict on each board, which is that on its worst model, as a number."""
    return f"instance:npumon_verdict:worst{{{where}}}"


def with_soc(expr: str) -> str:
    """``expr``, which is about models, with the label ``soc`` of their board."""
    return f"{expr} * on (job, instance, model) group_left (soc) instance_model:npumon_identity:group{{{MODELS}}}"


def not_scraped() -> str:
    """1 for each board whose last scrape failed, 0 for the others.

    Whoever else is in a job that has boards, as node_exporters without npumon are, is no board.
    """
    known = f'instance:npumon_seen:timestamp_seconds{{{BOARDS}}} or up{{{BOARDS}, job=~"npumon.*"}}'
    return f"(max by (job, instance) (up{{{BOARDS}}} == bool 0) and on (job, instance) ({known}))"


def stale() -> str:
    """How many models are no longer checked; 0 where all are."""
    return f"(count(instance_model:npumon_check_stale:raised{{{MODELS}}}) or 0 * sum(npumon_check_stale{{{MODELS}}}))"


def short(expr: str) -> str:
    """``expr`` with a label ``version`` that has the first 12 digits of ``sha256``."""
    return f'label_replace({expr}, "version", "$1", "sha256", "(.{{12}}).*")'


def ratio_of(state: str, labels: str) -> str:
    """The share of the models on all boards that have a verdict, by ``labels`` of the cohorts; 0 where none has it.

    ``state``: a matcher, such as ``="fallback"``.
    """
    counts = 'cohort:npumon_verdict:count{model=~"$model"'
    some, every = f"sum by ({labels}) ({counts}, state{state}}})", f"sum by ({labels}) ({counts}}})"
    return f"({some} or 0 * {every}) / {every}"
