"""`doctor`: checks of a run's requirements."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from harness.cli.app import app, conduct, names
from harness.cli.tables import JSON, print_json
from harness.core.errors import InputError


@app.command()
def doctor(
    models: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Backbones to load and verify."),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Data folder to check.", show_default="the hub cache"),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Required tasks.", show_default="the available ones"),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Output folder of the run.")] = Path("results"),
    ray: Annotated[bool, typer.Option(help="Start Ray briefly.")] = True,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Check the requirements of a run (versions, devices, backbones, data, folders, Ray), with advice.

    Exit code: 0 if no check fails, 1 otherwise, 2 for invalid input.
    """

    def work(console: Console) -> int:
        from harness.config.build import address_problems
        from harness.doctor.checks import HEALTHY, SICK, examine, findings

        given = {"models": names(models, "--models"), "data_dir": data_dir, "out": out}
        if problems := list(address_problems(given)):
            raise InputError(problems)
        asked: dict[str, Any] = {
            "models": names(models, "--models") or (),
            "data_dir": data_dir,
            "tasks": names(tasks, "--tasks") or (),
            "out": out,
            "ray": ray,
        }
        if not as_json:
            return examine(console, **asked)
        found = list(findings(**asked))
        print_json([vars(one) for one in found])
        return SICK if any(one.state == "fail" for one in found) else HEALTHY

    conduct(work)
