"""Commands on a benchmark running on a cluster: attach, status, logs, stop."""

from collections.abc import Callable
from pathlib import Path

import yaml
from rich.console import Console
from rich.markup import escape

from harness.cluster.finish import DETACHED, TeardownOptions, conclude, teardown
from harness.cluster.follow import attach, board_of, plain
from harness.cluster.machines import Machine, machines_of
from harness.cluster.session import Session, connection, load_session, use_token
from harness.cluster.spending import spent
from harness.cluster.ssh import ShellError
from harness.core.errors import InputError
from harness.core.wording import words


def _running(out: Path) -> Session:
    """The session of a submitted benchmark.

    Raises:
        InputError: If there is none, or its cluster is terminated.
    """
    session = load_session(out)
    use_token(of_its_own=bool(session.address))
    if not session.job:
        raise InputError(f"{out}: was not submitted to its cluster: run the same command again.")
    if not session.host and not session.address:
        raise InputError(f"{out}: its cluster was terminated; its results are in this folder.")
    return session


def _told(out: Path, work: Callable[[], int]) -> int:
    """Report errors of other hosts like invalid input, in one line; and a cluster that has ended by itself."""
    try:
        return work()
    except (ShellError, RuntimeError, OSError) as error:
        session = load_session(out)
        if session.file and session.provider != "local" and not any(one.up for one in _machines(session)):
            session.save(host="", file="")
            raise InputError(
                f"{out}: none of its cluster's machines is up any more; the head ends them when nobody needs it "
                "(--keep-head). Results are in --storage-path, if given; the same command continues from there."
            ) from None
        raise InputError(words(error, 300)) from None


def _machines(session: Session) -> list[Machine]:
    """Machines of a session's cluster.

    Raises:
        InputError: If the provider cannot be asked.
    """
    try:
        return machines_of(yaml.safe_load(Path(session.file).read_text(encoding="utf-8")))
    except Exception as error:  # every provider's library has its own exceptions
        raise InputError(
            f"{session.name}: neither its head nor its provider answers ({words(error)})."
        ) from None


def attach_to(out: Path, options: TeardownOptions, console: Console) -> int:
    """`attach` for an output folder."""
    return _told(out, lambda: attach(_running(out), options, console))


def show_status(out: Path, console: Console) -> int:
    """Print the state of a benchmark; returns 1 if it failed."""

    def look() -> int:
        session = _running(out)
        with connection(session) as (jobs, _):
            state = jobs.status(session.job)
            printed = jobs.logs(session.job).splitlines()
        console.print(f"{state}  {session.job}")
        board, lines = board_of(printed), [line for line in plain(printed) if line.strip()]
        if board is not None:
            console.print(board.table())
        elif lines:
            console.print(lines[-1].strip(), soft_wrap=True, markup=False)
        if session.file:
            console.print(
                f"{session.name} ({session.provider}), head {session.host}. {spent(session)}",
                soft_wrap=True,
            )
        return 1 if state == "FAILED" else 0

    return _told(out, look)


def show_logs(out: Path, last: int, console: Console) -> int:
    """Print the log of a benchmark."""

    def look() -> int:
        session = _running(out)
        with connection(session) as (jobs, _):
            lines = plain(jobs.logs(session.job).splitlines())
        for line in lines[-last:] if last else lines:
            console.print(line, soft_wrap=True, markup=False)
        return 0

    return _told(out, look)


def stop_run(out: Path, options: TeardownOptions, console: Console) -> int:
    """Stop the benchmark if it is running, download its results, and terminate the cluster if requested."""
    wish = options.teardown
    session = load_session(out)
    use_token(of_its_own=bool(session.address))
    if not session.host and not session.address:
        if session.file:  # machines were requested, but the head never answered
            return teardown(session, wish, console)
        raise InputError(f"{out}: its cluster is already terminated.")
    try:
        if session.job:
            with connection(session) as (jobs, _):
                ending = jobs.ending(session.job)
                if ending is None:
                    console.print("Stopping the benchmark; finished trials are kept.")
                    jobs.stop(session.job)
                    ending = jobs.wait(session.job)
            code = conclude(session, ending, options, console, all_the_same=True)
            return 0 if code in (0, DETACHED) else code
    except (InputError, ShellError, RuntimeError, OSError) as error:
        console.print(f"[yellow]{escape(str(error))}[/]", soft_wrap=True)
    if not session.file:
        return 1
    return teardown(session, wish, console, home=not session.job, discard=options.discard)
