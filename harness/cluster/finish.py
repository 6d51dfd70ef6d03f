"""End of a benchmark on a cluster: download and verification of results, cost, termination of the cluster."""

import sys
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from harness.cluster.download import bring_home, bring_parcel
from harness.cluster.jobs_api import Ending
from harness.cluster.joining import in_use, kept_for, mark_home
from harness.cluster.launch import ray_down
from harness.cluster.session import Session, connection
from harness.cluster.spending import spent
from harness.cluster.ssh import ShellError
from harness.core.errors import InputError, command

DETACHED = 130


@dataclass(frozen=True, kw_only=True)
class TeardownOptions:
    """Options that replace confirmations.

    Attributes:
        dry_run: Only print what would be done.
        yes: Start without confirmation.
        teardown: Whether to terminate the cluster at the end; `None` asks, and without a terminal terminates it once
            the results are downloaded, so that no machine keeps costing money unnoticed.
        discard: Terminate a cluster although others use it.
    """

    dry_run: bool = False
    yes: bool = False
    teardown: bool | None = None
    discard: bool = False


def conclude(
    session: Session,
    ending: Ending,
    options: TeardownOptions,
    console: Console,
    *,
    all_the_same: bool = False,
) -> int:
    """Download results, print the cost, and terminate the cluster if requested; returns the exit code.

    Args:
        all_the_same: Terminate the cluster as requested even if the results could not be downloaded.
    """
    # as wished at the start, also after Ctrl-C and `attach`
    wish = session.teardown if options.teardown is None and not all_the_same else options.teardown
    code = {"SUCCEEDED": 0, "STOPPED": DETACHED}.get(ending.status, ending.code or 1)
    if ending.status != "SUCCEEDED":
        told = f" ({' '.join(ending.message.split())[:200]})" if ending.message and not ending.code else ""
        console.print(f"[yellow]The job ended as {ending.status}[/]{escape(told)}.", soft_wrap=True)
    home = _home(session, console)
    if session.file:
        console.print(spent(session), soft_wrap=True)
        if home or all_the_same:
            undone = teardown(session, wish, console, home=home, discard=options.discard)
            return undone or (code if home else 1)
        console.print(
            "The cluster is not terminated, because the results are only there. When it is reachable again:"
        )
        for what, line in (
            ("try again", command("attach", session.out)),
            ("discard them", command("stop", session.out, "--teardown")),
        ):
            console.print(f"  {what + ':':14}{escape(line)}", soft_wrap=True)
    return code if home else 1


def _home(session: Session, console: Console) -> bool:
    """Download the results; returns whether every file matches the head's copy."""
    try:
        if session.address:
            with connection(session) as (jobs, _):
                found = bring_parcel(session, jobs)
            if found is None:
                console.print(
                    f"Results are on the cluster, in {escape(session.folder)}: too large for its Jobs API. "
                    "--storage-path keeps a copy that you can access.",
                    soft_wrap=True,
                )
                return True
            count = found
        else:
            count = bring_home(session)
            mark_home(session)
    except (InputError, ShellError, OSError, RuntimeError) as error:
        for line in error.problems if isinstance(error, InputError) else [str(error)]:
            console.print(f"[bold red]{escape(line)}[/]", soft_wrap=True)
        return False
    done = f"{count} files downloaded to {session.out}, digests verified."
    console.print(escape(done) if count else "The head has no results yet.", soft_wrap=True)
    return True


def teardown(
    session: Session,
    wish: bool | None,
    console: Console,
    *,
    home: bool = True,
    nobody: bool = True,
    discard: bool = False,
) -> int:
    """Terminate the cluster, after confirmation unless decided.

    Returns 0, or 1 if machines that cost money may be left.

    Args:
        wish: The user's decision; `None` asks.
        home: Whether the results are downloaded; if not, Return keeps the cluster.
        nobody: Decision without a terminal to ask.
        discard: Terminate it although others use it.
    """
    if wish is None:
        question = (
            "Terminate the cluster?" if home else "Results are not downloaded. Terminate the cluster anyway?"
        )
        wish = agreed(question, console, default=home, nobody=home and nobody)
    if not wish:
        console.print(still_up(session.out), soft_wrap=True)
        return 0
    if not discard and (why := in_use(session)):
        console.print(escape(kept_for(session, why)), soft_wrap=True)
        console.print(f"To terminate it all the same: {escape(command('stop', session.out, '--discard'))}")
        return 0
    try:
        left = ray_down(session, lambda line: console.print(escape(line), soft_wrap=True))
    except KeyboardInterrupt:
        console.print("Interrupted while the cluster was being terminated: machines may be left.")
        console.print(still_up(session.out), soft_wrap=True)
        return 1
    for line in left:
        console.print(f"[bold red]{escape(line)}[/]", soft_wrap=True)
    if left:
        console.print(still_up(session.out), soft_wrap=True)
        return 1
    console.print("The cluster is terminated; nothing is left running.")
    session.save(host="", file="")
    return 0


def agreed(question: str, console: Console, *, default: bool = False, nobody: bool = False) -> bool:
    """Ask the user for confirmation.

    Args:
        default: Answer for Return.
        nobody: Answer without a terminal or input. Ctrl-C means no.
    """
    try:
        return bool(typer.confirm(question, default=default))
    except typer.Abort:
        console.print()
        return nobody and not sys.stdin.isatty()


def still_up(out: Path) -> str:
    """Message when machines may keep running."""
    return (
        "[yellow]Machines may be running and cost money.[/] To terminate them: "
        f"{escape(command('stop', out, '--teardown'))}"
    )
