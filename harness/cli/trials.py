"""`trials`: every trial of a run's searches."""

import math
import textwrap
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from harness.cli.app import app, conduct
from harness.cli.tables import JSON, print_json
from harness.core.columns import HEADER, Column, fitted
from harness.core.errors import InputError, command, nearest

if TYPE_CHECKING:
    from harness.pipeline.trials import TrialState

COLUMNS = (
    Column(title="trial", name=True),
    Column(title="state"),
    Column(title="epoch", right=True),
    Column(title="last", right=True),
    Column(title="best", right=True),
    Column(title="curve", rank=1),
)
BARS, POINTS = "▁▂▃▄▅▆▇█", 16
"""Heights of a curve, and the most evaluations of it that are drawn: the last ones."""


@app.command()
def trials(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of a run.")],
    study: Annotated[
        str | None, typer.Option(metavar="STUDY", help="Only this study, `task|backbone|method`.")
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """List the trials of a run: configuration, dev curve so far, state; also while it runs.

    It reads the folder alone. The name of a trial is `task|backbone|method/trial-0007`.

    Exit code: 0, or 2 for invalid input.
    """

    def work(console: Console) -> int:
        from harness.cluster.session import FILE
        from harness.pipeline.trials import trials_of_run
        from harness.runs.layout import RunFolder

        if (run / FILE).exists() and not RunFolder(run).plan.exists():
            raise InputError(
                f"{run}: its trials are on its cluster until their results are downloaded; see "
                f"`{command('status', run)}`."
            )
        found = trials_of_run(run)
        if study is not None:
            keys = list(dict.fromkeys(one.study for one in found))
            if study not in keys:
                raise InputError(
                    f"`--study` must be a study with trials, but got {study!r}.{nearest(study, keys)}"
                )
            found = [one for one in found if one.study == study]
        if as_json:
            print_json([one.to_dict() for one in found])
            return 0
        for key, members in groupby(found, lambda one: one.study):
            _print_study(key, list(members), console)
        if not found:
            console.print(f"{run}: no trial has begun.", markup=False, soft_wrap=True)
        return 0

    conduct(work)


def _print_study(key: str, found: Sequence["TrialState"], console: Console) -> None:
    """A study's trials, each with its searched settings on the lines below it."""
    width = console.width if console.is_terminal else None
    scores = [score for one in found for score in one.curve if math.isfinite(score)]
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    rows = [_row(one, low, high) for one in found]
    console.print(f"[bold]{escape(key)}[/] dev {found[0].metric}", soft_wrap=True)
    for text, number in fitted(COLUMNS, rows, width, rule=False):
        console.print(f"[bold]{escape(text)}[/]" if number == HEADER else escape(text), soft_wrap=True)
        if number is not None and number != HEADER:
            for line in _details(found[number], width):
                console.print(f"[dim]{escape(line)}[/]", soft_wrap=True)
    console.print()


def _row(one: "TrialState", low: float, high: float) -> list[str]:
    from lingo.metrics import merit

    defined = [score for score in one.curve if math.isfinite(score)]
    best = max(defined, key=lambda score: merit(one.metric, score), default=math.nan)
    last = one.curve[-1] if one.curve else math.nan
    epoch = one.evaluations[-1]["epoch"] if one.evaluations else 0
    return [
        f"trial-{one.trial:04d}",
        one.state,
        f"{epoch:.4g}/{one.config['epochs']}" if "epochs" in one.config else f"{epoch:.4g}",
        "–" if math.isnan(last) else f"{last:.3f}",
        "–" if math.isnan(best) else f"{best:.3f}",
        "".join(_bar(score, low, high) for score in one.curve[-POINTS:]),
    ]


def _bar(score: float, low: float, high: float) -> str:
    if not math.isfinite(score):
        return "·"
    return BARS[round((score - low) / (high - low) * (len(BARS) - 1))] if high > low else BARS[0]


def _details(one: "TrialState", width: int | None) -> list[str]:
    """Searched settings, and what ended the trial where it was not trained to its end."""
    from harness.cli.best import short

    text = " ".join(f"{name}={short(one.config[name])}" for name in one.searched if name in one.config)
    parts = [text, f"({one.state} by {one.why})" if one.state == "stopped" else one.why]
    line = " ".join(filter(None, parts))
    return textwrap.wrap(line, (width or 10_000) - 2, initial_indent="  ", subsequent_indent="  ")
