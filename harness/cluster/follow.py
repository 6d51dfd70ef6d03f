"""A benchmark on a cluster, the way along: tunnels, the live view, and back to it after any break."""

import shlex
import time
from types import TracebackType

from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape

from harness.cluster.finish import DETACHED, TeardownOptions, conclude
from harness.cluster.jobs_api import Ending, JobLost
from harness.cluster.session import DASHBOARD, MLFLOW, Session, connection, token_path
from harness.cluster.ssh import ShellError
from harness.core.errors import InputError, command
from harness.progress.board import Board
from harness.progress.wire import read

AWAY_S = 900.0
"""How long the cluster may be silent, a lid closed or a line down, before the view is given up."""

AGAIN_S = 5.0


def attach(session: Session, options: TeardownOptions, console: Console) -> int:
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
    return conclude(session, ending, options, console)


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


NOISE = "(raylet)"
"""Ray on its own affairs; `logs` has them."""


class Screen:
    """Takes the lines of a job. Use as a context manager.

    Args:
        console: Where to show them; a live table only if it is a terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._board = Board()
        self._live: Live | None = None
        self._told_away = False
        self.seen = 0
        """Lines taken so far."""
        self.heard = 0.0
        """When the last one came, in seconds of the monotonic clock."""

    def __enter__(self) -> "Screen":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hide()

    def take(self, line: str) -> None:
        """Show one line of the job."""
        self.seen += 1
        self.heard, self._told_away = time.monotonic(), False
        news = read(line)
        if news is None:
            if NOISE not in line:
                self._console.print(line, soft_wrap=True, markup=False)
            return
        self._board.update(news)
        if not self._console.is_terminal:
            if news.get("say"):
                self._console.print(news["say"], soft_wrap=True, markup=False)
        elif self._board.over:
            self._hide()
        elif self._live is None:
            self._live = Live(
                get_renderable=self._table, console=self._console, refresh_per_second=2, transient=True
            )
            self._live.start()

    def _table(self) -> RenderableType:
        return self._board.table(self._console.size.height)

    def away(self) -> None:
        """Say, once, that the cluster is not heard."""
        if not self._told_away:
            self._console.print("[yellow]The cluster is not heard; trying again …[/]")
        self._told_away = True

    def _hide(self) -> None:
        if self._live is not None:
            self._live.stop()
        self._live = None


def plain(lines: list[str]) -> list[str]:
    """A job's output as it reads without a terminal."""
    told = [(line, read(line)) for line in lines]
    return [
        line if news is None else str(news["say"]) for line, news in told if news is None or news.get("say")
    ]


def board_of(lines: list[str]) -> Board | None:
    """How far a job is, from all that it has printed; `None` before its first trial and after its last."""
    board = Board()
    for news in filter(None, map(read, lines)):
        board.update(news)
    return board if board.rows and not board.over else None
