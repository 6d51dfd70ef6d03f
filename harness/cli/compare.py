"""`compare`: two runs, on the same rows of the test split."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness.cli.app import app, conduct, names
from harness.cli.tables import JSON, print_json, print_table
from harness.core.columns import Column


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of a run.")],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of another run.")],
    task: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only these tasks.", show_default="all that both have")
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Compare the test scores of two runs, row by row of the test split.

    Studies that both runs have are compared with each other; of a task without one, each run's study with the best dev
    score. The interval of a difference (three seeds in common or more) is a bootstrap of test rows and seeds together,
    paired by both.

    Exit code: 0 if anything was compared, 2 for invalid input.
    """

    def work(console: Console) -> int:
        from harness.pipeline.compare import compare as compared

        found = compared(first, second, names(task, "--task") or ())
        if as_json:
            print_json([vars(one) for one in found])
            return 0
        console.print(f"A: {first}\nB: {second}", markup=False, soft_wrap=True)
        same = all(one.a == one.b for one in found)
        columns = [
            Column(title="task", name=True),
            *(Column(title=title, name=True) for title in (("study",) if same else ("A", "B"))),
            Column(title="metric", name=True),
            Column(title="seeds", right=True, rank=1),
            Column(title="score A", right=True),
            Column(title="score B", right=True),
            Column(title="B - A", right=True),
            Column(title="95 % interval"),
        ]
        rows = [
            [
                one.task,
                *((one.a,) if same else (one.a, one.b)),
                one.metric,
                str(len(one.seeds)),
                f"{one.score_a:.3f}",
                f"{one.score_b:.3f}",
                f"{one.difference:+.3f}",
                f"none: {one.why}"
                if one.low is None
                else f"[{one.low:+.3f}, {one.high:+.3f}]{'*' * one.resolved}",
            ]
            for one in found
        ]
        print_table(columns, rows, console)
        if any(one.resolved for one in found):
            console.print(
                "*: the interval excludes 0, for these test rows and seeds; not corrected for several comparisons"
            )
        return 0

    conduct(work)
