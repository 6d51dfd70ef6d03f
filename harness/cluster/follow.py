"""Following a benchmark on a cluster: tunnels, the live table, and reconnection."""

import shlex
import time
from collections.abc import Mapping
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
"""Seconds without an answer from the cluster (laptop asleep, network down) before following is given up."""

AGAIN_S = 5.0


def attach(session: Session, options: TeardownOptions, console: Console) -> int:
    """Follow a submitted benchmark to its end, then download its results. Ctrl-C leaves it running.

    Returns:
        The exit code of the benchmark; 130 when detached.
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
    """Commands to print after detaching."""
    cost = ", and running machines cost money" if session.file else ""
    console.print(f"Detached; the benchmark keeps running{cost}.", soft_wrap=True)
    for what, name in (("reconnect", "attach"), ("status", "status"), ("stop it", "stop")):
        console.print(f"  {what + ':':11}{escape(command(name, session.out))}", soft_wrap=True)


def _follow(session: Session, console: Console) -> Ending:
    """Follow the job to its end; lost connections are restored, and no line is shown twice.

    Raises:
        ConnectionError: If the cluster does not answer for `AWAY_S`.
    """
    screen = Screen(console, {session.folder: shlex.quote(str(session.out))})
    heard, first = time.monotonic(), True
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
                    raise ConnectionError(f"the cluster no longer answers ({error})") from None
                screen.away()
                time.sleep(AGAIN_S)


def _say_doors(session: Session, ports: dict[int, int], console: Console) -> None:
    if ports:
        _serve_mlflow(session, ports[MLFLOW], console)
        console.print(
            f"Ray dashboard  http://127.0.0.1:{ports[DASHBOARD]}  (its token: {token_path()})", soft_wrap=True
        )
        console.print(f"MLflow         http://127.0.0.1:{ports[MLFLOW]}  (once the first trial has ended)")
    console.print("Ctrl-C detaches; the benchmark keeps running.")


def _serve_mlflow(session: Session, port: int, console: Console) -> None:
    """The MLflow UI on the head's loopback, as soon as there is a store; only the driver migrates it."""
    folder = shlex.quote(session.folder)
    # Without the first setting, seven processes wait for jobs that are never submitted.
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
        console.print(f"[yellow]The MLflow UI is not available: {escape(str(error))}[/]", soft_wrap=True)


NOISE = "(raylet)"
"""Ray's own log lines, shown by `logs` only."""


class Screen:
    """Shows the lines of a job. Use as a context manager.

    Args:
        console: Output; the live table requires a terminal.
        names: What to show in place of other words: where the head's folders will be on this machine.
    """

    def __init__(self, console: Console, names: Mapping[str, str] | None = None) -> None:
        self._console = console
        self._names = {word: name for word, name in (names or {}).items() if word}
        self._board = Board()
        self._live: Live | None = None
        self._told_away = False
        self.seen = 0
        """Number of lines shown so far."""
        self.heard = 0.0
        """Time of the last one, in seconds of the monotonic clock."""

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
            for word, name in self._names.items():
                line = line.replace(word, name)
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
        """Print, once, that the cluster does not answer."""
        if not self._told_away:
            self._console.print("[yellow]No answer from the cluster; retrying …[/]")
        self._told_away = True

    def _hide(self) -> None:
        if self._live is not None:
            self._live.stop()
        self._live = None


def plain(lines: list[str]) -> list[str]:
    """A job's output as printed without a terminal."""
    told = [(line, read(line)) for line in lines]
    return [
        line if news is None else str(news["say"]) for line, news in told if news is None or news.get("say")
    ]


def board_of(lines: list[str]) -> Board | None:
    """Progress of a job from its complete output; `None` before its first trial and after its last."""
    board = Board()
    for news in filter(None, map(read, lines)):
        board.update(news)
    return board if board.rows and not board.over else None
