"""A benchmark on a cluster, the way along: tunnels, the live view, and back to it after any break."""

import shlex
import time

from rich.console import Console
from rich.markup import escape

from harness.cluster_connection import DASHBOARD, MLFLOW, connection
from harness.cluster_end import DETACHED, Wishes, conclude
from harness.cluster_jobs import Ending, JobLost
from harness.cluster_screen import Screen
from harness.cluster_session import Session, token_path
from harness.cluster_shell import ShellError
from harness.errors import InputError, command

AWAY_S = 900.0
"""How long the cluster may be silent, a lid closed or a line down, before the view is given up."""

AGAIN_S = 5.0


def attach(session: Session, wishes: Wishes, console: Console) -> int:
    """Follow a submitted benchmark to its end, then bring it home. Ctrl-C leaves it running.

    Returns:
        The benchmark's exit code; 130 when left.
    """
    try:
        ending = _follow(session, console)
    except (KeyboardInterrupt, ConnectionError) as reason:
        if isinstance(reason, ConnectionError):
            console.print(f"[yellow]{escape(str(reason))}[/]", soft_wrap=True)
        say_how_to_come_back(session, console)
        return DETACHED
    return conclude(session, ending, wishes, console)


def say_how_to_come_back(session: Session, console: Console) -> None:
    """What a user needs who has left."""
    cost = ", and machines that run cost money" if session.file else ""
    console.print(f"Left; the benchmark goes on without this terminal{cost}.", soft_wrap=True)
    for what, name in (("come back", "attach"), ("look", "status"), ("end it", "stop")):
        console.print(f"  {what + ':':11}{escape(command(name, session.out))}", soft_wrap=True)


def _follow(session: Session, console: Console) -> Ending:
    """Watch the job to its end; a connection that breaks is made again, and nothing is shown twice.

    Raises:
        ConnectionError: When the cluster has been silent for `AWAY_S`.
    """
    screen, heard, first = Screen(console), time.monotonic(), True
    with screen:
        while True:
            try:
                with connection(session) as (jobs, ports):
                    if first:
                        _say_doors(session, ports, console)
                    first = False
                    return jobs.follow(session.job, screen.take, seen=screen.seen)
            except JobLost:
                raise
            except (ConnectionError, ShellError, InputError) as error:
                if first and isinstance(error, InputError):
                    raise
                now = time.monotonic()
                heard = max(heard, screen.heard)
                if now - heard > AWAY_S:
                    raise ConnectionError(f"the cluster does not answer any more ({error})") from None
                screen.away()
                time.sleep(AGAIN_S)


def _say_doors(session: Session, ports: dict[int, int], console: Console) -> None:
    if ports:
        _serve_mlflow(session, ports[MLFLOW], console)
        console.print(
            f"Ray dashboard  http://127.0.0.1:{ports[DASHBOARD]}  (its token: {token_path()})", soft_wrap=True
        )
        console.print(f"MLflow         http://127.0.0.1:{ports[MLFLOW]}  (once the first trial has ended)")
    console.print("Ctrl-C leaves this view and not the benchmark.")


def _serve_mlflow(session: Session, port: int, console: Console) -> None:
    """MLflow's pages on the head's loopback, as soon as there is a store; the driver alone migrates it."""
    folder = shlex.quote(session.folder)
    # Without the first, seven processes wait for jobs that nobody submits.
    quiet = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true"
    serve = (
        f"env {quiet} python -m mlflow ui --workers 1 --host 127.0.0.1 --port {MLFLOW} "
        "--backend-store-uri sqlite:///$PWD/mlflow.db "
        f"--allowed-hosts 127.0.0.1:{port},localhost:{port},127.0.0.1:{MLFLOW}"
    )
    waiting = (
        f"echo $$ >.mlflow-ui.pid; while ! ls records/*.json >/dev/null 2>&1; do sleep 5; done; exec {serve}"
    )
    line = (
        f"mkdir -p {folder} && cd {folder} && {{ kill $(cat .mlflow-ui.pid); }} 2>/dev/null; "
        f"nohup setsid bash -c {shlex.quote(waiting)} >.mlflow-ui.log 2>&1 </dev/null & true"
    )
    try:
        session.remote.run(line, timeout=60)
    except ShellError as error:
        console.print(f"[yellow]MLflow's pages are not served: {escape(str(error))}[/]", soft_wrap=True)
