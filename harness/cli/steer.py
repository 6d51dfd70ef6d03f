"""`stop-trial`, `add-trial`, `more`, `pause`, `unpause`: what a user asks of a run while it goes on."""

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from harness.cli.app import app, conduct
from harness.core.errors import InputError, command, nearest

if TYPE_CHECKING:
    from harness.runs.requests import Request

WAIT_S = 10.0
"""Seconds for which a command waits for the run's answer."""

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of a run.")]
OfStudy = Annotated[str, typer.Argument(metavar="STUDY", help="A study of the run, `task|backbone|method`.")]


@app.command("stop-trial")
def stop_trial(
    run: Run,
    trial: Annotated[
        str, typer.Argument(metavar="TRIAL", help="A trial, as `trials` names it with its study.")
    ],
) -> None:
    """Stop a trial that is queued or training; it counts among the trials of its study.

    In a wider --scope it stops on all tasks.

    Exit code: 0, or 2 for invalid input and what the run refuses.
    """

    def made(studies: Mapping[str, Any]) -> "Request":
        from harness.runs.requests import Request

        study, number = _named(trial, studies, "TRIAL")
        return Request(kind="stop", study=study, trial=number)

    _ask(run, made)


@app.command("add-trial")
def add_trial(
    run: Run,
    study: OfStudy,
    values: Annotated[
        str,
        typer.Option("--set", metavar="NAME=VALUE,…", help="Searched settings, as in `p=0.2,delta_T=100`."),
    ],
    parent: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="TRIAL",
            help="A trial of the study with the other settings.",
            show_default="the first point",
        ),
    ] = None,
) -> None:
    """Add a trial to a study's search: settings that are not given are those of a trial, or of the first point.

    It is trained before the search's own trials. Where only p, bT, delta_T or rank_update differ from the trial named
    with --from, it starts from that trial's newest checkpoint before the first allocation of either; else from its
    start. In a wider --scope it is a trial of all tasks.

    Exit code: 0, or 2 for invalid input and what the run refuses.
    """

    def made(studies: Mapping[str, Any]) -> "Request":
        from harness.config.added_trial import added_values, space_of
        from harness.pipeline.resume import stored_benchmark
        from harness.pipeline.trials import trials_of_run
        from harness.runs.requests import Request

        _known(study, studies)
        given = _pairs(values)
        number, config = None, None
        if parent is not None:
            key, number = _named(parent, studies, "--from")
            if key != study:
                raise InputError(f"`--from` must be a trial of {study}, but got one of {key}.")
            known = {one.trial: one.config for one in trials_of_run(run) if one.study == study}
            if number not in known:
                raise InputError(f"`--from` must be a trial that has begun, but got {parent!r}.")
            config = known[number]
        space = space_of(studies[study]["space"])
        options = stored_benchmark(run, {}).of_trials
        found = added_values(space, given, parent=config, options=options)
        return Request(kind="add", study=study, trial=number, values=found)

    _ask(run, made)


@app.command()
def more(
    run: Run,
    study: OfStudy,
    num_samples: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Trials that its search is to have in all, but added ones."),
    ],
) -> None:
    """Give the search of one study more trials, as `resume --num-samples` gives them to all.

    Exit code: 0, or 2 for invalid input and what the run refuses.
    """

    def made(studies: Mapping[str, Any]) -> "Request":
        from harness.runs.requests import Request

        _known(study, studies)
        return Request(kind="more", study=study, num_samples=num_samples)

    _ask(run, made)


@app.command()
def pause(run: Run, study: OfStudy) -> None:
    """Start no further trials of a study's search until `unpause`; those that have begun go on.

    A run whose other searches are complete ends without the final runs of a paused study.

    Exit code: 0, or 2 for invalid input and what the run refuses.
    """
    _ask(run, lambda studies: _pausing("pause", study, studies))


@app.command()
def unpause(run: Run, study: OfStudy) -> None:
    """Start trials of a paused study's search again.

    Exit code: 0, or 2 for invalid input and what the run refuses.
    """
    _ask(run, lambda studies: _pausing("unpause", study, studies))


def _pausing(kind: Any, study: str, studies: Mapping[str, Any]) -> "Request":
    from harness.runs.requests import Request

    _known(study, studies)
    return Request(kind=kind, study=study)


def _ask(run: Path, made: Callable[[Mapping[str, Any]], "Request"]) -> None:
    """Leave a request in the run's folder and wait for its answer; without a driver the next one answers."""

    def work(console: Console) -> int:
        from harness.runs.lock import driver_of
        from harness.runs.requests import Requests

        requests = Requests(run)
        request = requests.ask(made(_studies(run)))
        if not driver_of(run):
            where = command("resume", run)
            console.print(
                f"Request {request.number} waits for the run: {where}", markup=False, soft_wrap=True
            )
            return 0
        deadline = time.monotonic() + WAIT_S
        while request.state == "asked" and time.monotonic() < deadline:
            time.sleep(0.2)
            request = next(one for one in requests.load() if one.number == request.number)
        if request.state == "refused":
            raise InputError(request.reason)
        said = request.reason or (
            f"Request {request.number} is not answered yet: a run answers while it searches, and after the final stage."
        )
        console.print(said, markup=False, soft_wrap=True)
        return 0

    conduct(work, refused="nothing was changed")


def _studies(run: Path) -> dict[str, Any]:
    """The studies of a run's plan by their keys.

    Raises:
        InputError: If it is no run, or one on a cluster.
    """
    from harness.cluster.session import FILE
    from harness.pipeline.trials import planned_studies

    if (run / FILE).exists():
        raise InputError(
            f"{run}: its run is on a cluster, where its trials can be steered on the head alone, in the folder of the "
            "run there."
        )
    return planned_studies(run)


def _known(study: str, studies: Mapping[str, Any]) -> None:
    if study not in studies:
        raise InputError(f"STUDY must be a study of the run, but got {study!r}.{nearest(study, studies)}")


def _named(trial: str, studies: Mapping[str, Any], where: str) -> tuple[str, int]:
    """Study and number of a trial."""
    study, _, name = trial.rpartition("/")
    found = re.fullmatch(r"trial-(\d+)", name)
    if found is None or not study:
        raise InputError(
            f"`{where}` must be a trial, as in `task|backbone|method/trial-0007`, but got {trial!r}."
        )
    _known(study, studies)
    return study, int(found[1])


def _pairs(text: str) -> dict[str, str]:
    """`p=0.2,delta_T=100` as names and values."""
    parts = [part.partition("=") for part in text.split(",")]
    if wrong := ["".join(part) for part in parts if not (part[0].strip() and part[1] and part[2].strip())]:
        raise InputError(
            f"`--set` must be NAME=VALUE, several with commas, but got {', '.join(map(repr, wrong))}."
        )
    names = [part[0].strip() for part in parts]
    if len(set(names)) < len(names):
        raise InputError(f"`--set` must name each setting once, but got {text!r}.")
    return {part[0].strip(): part[2].strip() for part in parts}
