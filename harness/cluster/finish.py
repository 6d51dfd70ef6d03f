"""A benchmark on a cluster, the way home: results here and compared, what was spent, the cluster taken down."""

import sys
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from harness.cluster.download import bring_home, bring_parcel
from harness.cluster.jobs_api import Ending
from harness.cluster.launch import ray_down
from harness.cluster.session import Session, connection
from harness.cluster.spending import spent
from harness.cluster.ssh import ShellError
from harness.core.errors import InputError, command

DETACHED = 130


@dataclass(frozen=True, kw_only=True)
class TeardownOptions:
    """What the user wants done without being asked.

    Attributes:
        dry_run: Only say what would be done.
        yes: Start without asking.
        teardown: Whether the cluster is taken down at the end; `None` asks, and where nobody can answer takes it
            down once the results are home: no machine goes on costing money unasked.
    """

    dry_run: bool = False
    yes: bool = False
    teardown: bool | None = None


def conclude(
    session: Session,
    ending: Ending,
    options: TeardownOptions,
    console: Console,
    *,
    all_the_same: bool = False,
) -> int:
    """Bring results home, say what was spent, and take the cluster down if that is wished; the exit code.

    Args:
        all_the_same: Take the cluster down as wished even if results could not be brought home.
    """
    code = {"SUCCEEDED": 0, "STOPPED": DETACHED}.get(ending.status, ending.code or 1)
    if ending.status != "SUCCEEDED":
        told = f" ({' '.join(ending.message.split())[:200]})" if ending.message and not ending.code else ""
        console.print(f"[yellow]The job ended as {ending.status}[/]{escape(told)}.", soft_wrap=True)
    home = _home(session, console)
    if session.file:
        console.print(spent(session), soft_wrap=True)
        if home or all_the_same:
            return teardown(session, options.teardown, console, home=home) or (code if home else 1)
        console.print("The cluster is not taken down: only it has the results. Once it can be reached again:")
        for what, line in (
            ("try again", command("attach", session.out)),
            ("give them up", command("stop", session.out, "--teardown")),
        ):
            console.print(f"  {what + ':':14}{escape(line)}", soft_wrap=True)
    return code if home else 1


def _home(session: Session, console: Console) -> bool:
    """Whether every file is here as it is on the head."""
    try:
        if session.address:
            with connection(session) as (jobs, _):
                found = bring_parcel(session, jobs)
            if found is None:
                console.print(
                    f"Results are on the cluster, in {escape(session.folder)}: too much for its Jobs API. "
                    "--storage-path keeps a copy where you can get at it.",
                    soft_wrap=True,
                )
                return True
            count = found
        else:
            count = bring_home(session)
    except (InputError, ShellError, OSError, RuntimeError) as error:
        for line in error.problems if isinstance(error, InputError) else [str(error)]:
            console.print(f"[bold red]{escape(line)}[/]", soft_wrap=True)
        return False
    console.print(f"{count} files are home in {escape(str(session.out))}, digests compared.", soft_wrap=True)
    return True


def teardown(
    session: Session, wish: bool | None, console: Console, *, home: bool = True, nobody: bool = True
) -> int:
    """Take the cluster down, asking first unless told. 0, or 1 when something may be left that costs money.

    Args:
        wish: What the user has said; `None` asks.
        home: Whether the results are here; if not, Return keeps the cluster.
        nobody: What is done where nobody can be asked.
    """
    if wish is None:
        question = (
            "Take the cluster down?" if home else "Results are not home. Take the cluster down all the same?"
        )
        wish = agreed(question, console, default=home, nobody=home and nobody)
    if not wish:
        console.print(still_up(session.out), soft_wrap=True)
        return 0
    try:
        left = ray_down(session, lambda line: console.print(escape(line), soft_wrap=True))
    except KeyboardInterrupt:
        console.print("Interrupted while the cluster was taken down: some of it may be left.")
        console.print(still_up(session.out), soft_wrap=True)
        return 1
    for line in left:
        console.print(f"[bold red]{escape(line)}[/]", soft_wrap=True)
    if left:
        console.print(still_up(session.out), soft_wrap=True)
        return 1
    console.print("The cluster is down; nothing of it is left.")
    session.save(host="", file="")
    return 0


def agreed(question: str, console: Console, *, default: bool = False, nobody: bool = False) -> bool:
    """Ask the user.

    Args:
        default: What Return means.
        nobody: The answer where nobody can be asked: no terminal, and nothing to read. Ctrl-C is a no.
    """
    try:
        return bool(typer.confirm(question, default=default))
    except typer.Abort:
        console.print()
        return nobody and not sys.stdin.isatty()


def still_up(out: Path) -> str:
    """What is said wherever machines may go on running."""
    return (
        "[yellow]Machines may be running and cost money.[/] To end them: "
        f"{escape(command('stop', out, '--teardown'))}"
    )
