"""`show`: summary of a run."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from harness.cli.app import app, conduct
from harness.cli.tables import JSON, print_json
from harness.core.errors import command

SETTINGS = (
    "suite",
    "num_samples",
    "epochs",
    "seeds",
    "searcher",
    "scheduler",
    "scope",
    "batch_size",
    "eval_steps",
    "seed",
    "limit",
)


@app.command()
def show(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of a run.")],
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Show a run: settings, leaderboard, best configurations, failures.

    It reads the folder alone, so it works during a run and after a failed one.

    Exit code: 0, or 2 for invalid input.
    """

    def work(console: Console) -> int:
        from harness.pipeline.state import state_of
        from harness.report.leaderboard import leaderboard, print_leaderboard
        from harness.runs.layout import RunFolder
        from harness.runs.store import load
        from lingo.text_files import read_object

        state, records = state_of(run), load(run)
        plan = read_object(RunFolder(run).plan)
        settings = plan["settings"]
        keys: Any = [tuple(study["key"].split("|")) for study in plan["studies"]]
        failed = [record for record in records if record.status == "failed"]
        if as_json:
            rows = leaderboard(records, expected=keys, seeds=settings["seeds"])
            print_json(
                {
                    "state": state.to_dict(),
                    "settings": settings,
                    "leaderboard": [row.to_dict() for row in rows],
                    "best": [one.to_dict() for one in _best(records)],
                    "failures": {record.id: record.error for record in failed},
                }
            )
            return 0

        def line(text: str) -> None:
            console.print(text, markup=False, soft_wrap=True)

        line(
            f"{run}: {state.state}{f' ({state.driver})' if state.driver else ''}, experiment {state.experiment}"
        )
        line(
            f"{state.trials} of {state.trials_wanted} trials, {state.finals} of {state.finals_wanted} final runs, "
            f"{state.failed} failed; last result {state.updated[:19].replace('T', ' ') or 'none'}"
        )
        told = [f"{name}={_plain(settings[name])}" for name in SETTINGS if settings.get(name) is not None]
        held = RunFolder(run).repeat
        line(f"settings: {' '.join(told)} ({held if held.exists() else RunFolder(run).plan})")
        line("")
        if any(record.stage == "final" for record in records):
            print_leaderboard(records, console, expected=keys, seeds=settings["seeds"])
        if found := _best(records):
            from harness.cli.best import print_best

            line("")
            print_best(found, console)
        for record in failed[:5]:
            line(f"failed {record.id}: {record.error}")
        if len(failed) > 5:
            line(f"and {len(failed) - 5} more failures, see {RunFolder(run).records}")
        line("")
        for words in (("report", run), ("ui", run), ("best", run)):
            line(command(*words))
        return 0

    conduct(work)


def _best(records: Any) -> Any:
    from harness.pipeline.best import best_of

    return best_of(records)


def _plain(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
