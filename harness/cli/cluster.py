"""`attach`, `status`, `logs`, `stop` for a benchmark on a cluster; `status` also for one on this machine."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from harness.cli.app import app, conduct
from harness.cli.tables import JSON, print_json
from harness.core.errors import command

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Local output folder of the benchmark.")]
ASKED = "ask; without a terminal, terminate once results are downloaded"


def _conduct(work: Callable[[Any, Console], int]) -> None:
    """Run a command with `harness.cluster.control`, which is imported where Ctrl-C is handled."""
    conduct(
        lambda console: work(import_module("harness.cluster.control"), console), refused="nothing was changed"
    )


@app.command()
def attach(
    run: Run,
    teardown: Annotated[
        bool | None, typer.Option(help="Terminate the cluster at the end, or keep it.", show_default=ASKED)
    ] = None,
) -> None:
    """Reconnect to a benchmark on a cluster, and download its results at the end.

    Exit code: that of the benchmark, 2 for invalid input, 130 when detached.
    """
    _conduct(
        lambda control, console: control.attach_to(run, control.TeardownOptions(teardown=teardown), console)
    )


@app.command()
def status(run: Run, as_json: Annotated[bool, JSON] = False) -> None:
    """Print the progress of a run: on this machine from its folder, on a cluster also job, machines and cost.

    Exit code: 0 while it is running or if it is complete, 1 if it failed or lacks results, 2 for invalid input.
    """

    def work(console: Console) -> int:
        from harness.cluster.session import FILE

        if not as_json and (run / FILE).exists():
            return int(import_module("harness.cluster.control").show_status(run, console))
        return _local(run, console, as_json=as_json)

    conduct(work, refused="nothing was changed")


def _local(run: Path, console: Console, *, as_json: bool) -> int:
    """The state of a run on this machine, or of what was downloaded."""
    from harness.pipeline.state import board_of, state_of
    from harness.runs.layout import RunFolder

    state = state_of(run)
    board = board_of(run) if state.state == "running" else None
    code = 1 if state.state == "incomplete" else 0
    if as_json:
        print_json({**state.to_dict(), "left_s": board.left_s if board else None})
        return code
    who = f" ({state.driver})" if state.driver else ""
    console.print(f"{state.state}  {run}{who}", markup=False, soft_wrap=True)
    if board is not None:
        console.print(board.table(width=console.width if console.is_terminal else None))
        console.print(f"page    {RunFolder(run).page}", markup=False, soft_wrap=True)
        return code
    console.print(
        f"{state.trials} of {state.trials_wanted} trials and {state.finals} of {state.finals_wanted} final runs have "
        f"ended, {state.failed} failed; last result {state.updated[:19].replace('T', ' ') or 'none'}",
        soft_wrap=True,
    )
    next_ = "show" if code == 0 else "resume"
    console.print(
        f"To {'see it' if code == 0 else 'continue'}: {command(next_, run)}", markup=False, soft_wrap=True
    )
    return code


@app.command()
def logs(
    run: Run,
    last: Annotated[int, typer.Option(metavar="N", min=0, help="Only the last N lines; 0 for all.")] = 0,
) -> None:
    """Print the log of a benchmark on a cluster.

    Exit code: 0, or 2 for invalid input.
    """
    _conduct(lambda control, console: control.show_logs(run, last, console))


@app.command()
def stop(
    run: Run,
    teardown: Annotated[
        bool | None, typer.Option(help="Also terminate the cluster, or keep it.", show_default=ASKED)
    ] = None,
    discard: Annotated[
        bool,
        typer.Option(
            "--discard", help="Terminate it although other benchmarks run there or have results only there."
        ),
    ] = False,
) -> None:
    """Stop a benchmark on a cluster like Ctrl-C, download its results, and terminate the cluster.

    Exit code: 0 if stopped, 1 if machines may be left, 2 for invalid input.
    """
    wish = True if discard else teardown
    _conduct(
        lambda control, console: control.stop_run(
            run, control.TeardownOptions(teardown=wish, discard=discard), console
        )
    )
