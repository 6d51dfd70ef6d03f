"""A benchmark on a cluster, from here and back: checked, started, followed, brought home, taken down."""

import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from harness.cluster_files import ClusterFile
from harness.cluster_home import bring_home
from harness.cluster_inputs import Shipment, shipment
from harness.cluster_jobs import Ending, Jobs
from harness.cluster_launch import ray_down, ray_up
from harness.cluster_plan import check, folder_name, show_plan, spending
from harness.cluster_session import FILE, Session, load_session, token_path, use_token
from harness.cluster_shell import ShellError, Tunnels
from harness.config import Benchmark
from harness.errors import InputError
from harness.progress import duration

DASHBOARD, MLFLOW = 8265, 5000
DETACHED = 130
NODES_S = 600.0
"""How long the machines that a file always keeps may take until they are part of the cluster."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the user wants done without being asked.

    Attributes:
        dry_run: Only say what would be done.
        yes: Start without asking.
        teardown: Whether the cluster is taken down at the end; `None` asks, and keeps it where nobody answers.
    """

    dry_run: bool = False
    yes: bool = False
    teardown: bool | None = None


def run_on_cluster(benchmark: Benchmark, wishes: Wishes, console: Console) -> int:
    """Run a benchmark on the cluster that its `cluster` names, from the checks to the results here.

    Returns:
        The benchmark's own exit code; 130 after Ctrl-C, which leaves it running.

    Raises:
        InputError: with every problem, before any machine is started.
    """
    assert benchmark.cluster is not None
    if not wishes.dry_run:
        use_token()
    checked = check(benchmark, dry_run=wishes.dry_run)
    show_plan(checked, benchmark, console)
    if wishes.dry_run:
        return 0
    if (checked.out / FILE).is_file() and load_session(checked.out).job:
        session = _again(checked.out, console)
        if session is not None:
            return attach(session, wishes, console)
    if not wishes.yes and not _agreed("Start?", console):
        console.print("Nothing was started.")
        return 0
    if checked.file is None:
        session = Session(out=checked.out, address=benchmark.cluster, folder=checked.folder).save()
        return _submit_and_follow(session, benchmark, wishes, console)
    return _start(checked.file, checked.out, benchmark, wishes, console)


def _start(file: ClusterFile, out: Path, benchmark: Benchmark, wishes: Wishes, console: Console) -> int:
    """From the first machine on a failure says that machines may be running."""
    try:
        session = _up(file, out, console)
        return _submit_and_follow(session, benchmark, wishes, console)
    except (InputError, ShellError) as error:
        for line in error.problems if isinstance(error, InputError) else [str(error)]:
            console.print(f"[bold red]{escape(line)}[/]", soft_wrap=True)
        console.print(_still_up(out), soft_wrap=True)
        return 1
    except BaseException:
        console.print(_still_up(out), soft_wrap=True)
        raise


def _agreed(question: str, console: Console, default: bool = False) -> bool:
    try:
        return bool(typer.confirm(question, default=default))
    except typer.Abort:
        console.print()
        return False


def _again(out: Path, console: Console) -> Session | None:
    """The session of an earlier start of the same benchmark, if its job still runs."""
    session = load_session(out)
    try:
        with connection(session) as (jobs, _):
            if jobs.ending(session.job) is None:
                console.print(f"This benchmark runs on the cluster already, as {session.job}.")
                return session
    except (InputError, ShellError):
        pass
    return None


def _up(cluster: ClusterFile, out: Path, console: Console) -> Session:
    earlier = load_session(out) if (out / FILE).is_file() else None
    still_up = earlier is not None and earlier.name == cluster.name and bool(earlier.host)
    session = Session(
        out=out,
        name=cluster.name,
        provider=cluster.provider,
        nodes=cluster.workers + 1,
        hourly=cluster.ceiling(),
        started=earlier.started if earlier is not None and still_up else time.time(),
        file=str(cluster.path.resolve()),
    ).save()
    begun = time.monotonic()

    def say(line: str) -> None:
        console.print(f"{duration(time.monotonic() - begun):>8}  {escape(line)}")

    return ray_up(cluster, session, say)


def _still_up(out: Path) -> str:
    return (
        "[yellow]Machines may be running and cost money.[/] To end them: "
        f"python run_benchmark.py stop {escape(str(out))} --teardown"
    )


class connection:
    """The Jobs API of a session and the local ports of its tunnels. Use as a context manager."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._tunnels: Tunnels | None = None

    def __enter__(self) -> tuple[Jobs, dict[int, int]]:
        if self._session.address:
            return Jobs(self._session.address), {}
        self._tunnels = Tunnels(self._session.remote, (DASHBOARD, MLFLOW))
        ports = self._tunnels.__enter__().ports
        try:
            return Jobs(f"http://127.0.0.1:{ports[DASHBOARD]}"), ports
        except BaseException:
            self._tunnels.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        if self._tunnels is not None:
            self._tunnels.__exit__()


def _submit_and_follow(session: Session, benchmark: Benchmark, wishes: Wishes, console: Console) -> int:
    sent = _ship(session, benchmark, console)
    folder = sent.arguments[sent.arguments.index("--out") + 1]
    with connection(session) as (jobs, _):
        if not session.address:
            _doctor(session, jobs, console)
        job = jobs.submit(["run_benchmark.py", *sent.arguments], name=f"lingo {session.out.name}")
    session = session.save(job=job, folder=folder)
    console.print(f"Submitted as {job}.")
    return attach(session, wishes, console)


def _ship(session: Session, benchmark: Benchmark, console: Console) -> Shipment:
    """Send what the options name; data is prepared on the head, once."""
    if session.address:
        return shipment(benchmark, "~", session.folder)
    home = session.remote.run("echo $HOME").strip()
    sent = shipment(benchmark, home, f"{home}/lingo/runs/{folder_name(session.out)}")
    for item in sent.sent:
        console.print(f"[dim]sending {escape(str(item.local))}[/]", soft_wrap=True)
        session.remote.push(item.local, item.folder)
    return sent


def _doctor(session: Session, jobs: Jobs, console: Console) -> None:
    """Look at every node that is up; where a run cannot work it does not begin.

    Raises:
        InputError: with every failure.
    """
    always = session.nodes if session.provider == "local" else 1
    arguments = ["-m", "harness.cluster_doctor", "--nodes", str(always), "--wait", str(NODES_S)]
    found, _ = jobs.answer(arguments, name="doctor", timeout=NODES_S + 300)
    problems = failures(found)
    if problems:
        raise InputError(problems)
    for node in found["nodes"]:
        words = [row["text"] for row in node["findings"] if row["about"] in ("machine", "device")]
        console.print(f"[green]ok  [/] {node['address']}: {escape('; '.join(words))}", soft_wrap=True)


def failures(found: dict[str, Any]) -> list[str]:
    """What stops a run, from the answer of `harness.cluster_doctor`."""
    problems = []
    for node in found["nodes"]:
        if "error" in node:
            problems.append(f"{node['address']}: does not answer ({node['error']}).")
        problems += [
            f"{node['address']}: {row['text']}; {row['advice']}"
            for row in node["findings"]
            if row["state"] == "fail"
        ]
    if len(found["nodes"]) < found["expected"]:
        there = ", ".join(node["address"] for node in found["nodes"])
        problems.append(f"{found['expected']} nodes were expected, but only these came: {there}.")
    return problems


def attach(session: Session, wishes: Wishes, console: Console) -> int:
    """Follow a submitted benchmark to its end, then bring it home. Ctrl-C leaves it running.

    Returns:
        The benchmark's exit code; 130 when left.
    """
    out = escape(str(session.out))
    try:
        ending = _follow(session, console)
    except (KeyboardInterrupt, ConnectionError) as reason:
        if isinstance(reason, ConnectionError):
            console.print(f"[yellow]{escape(str(reason))}[/]")
        console.print("Left; the benchmark goes on without this terminal, and machines that run cost money.")
        for what, command in (("come back", "attach"), ("look", "status"), ("end it", "stop")):
            console.print(f"  {what + ':':11}python run_benchmark.py {command} {out}", soft_wrap=True)
        return DETACHED
    return conclude(session, ending, wishes, console)


def _follow(session: Session, console: Console) -> Ending:
    def show(line: str) -> None:
        if "(raylet)" not in line:  # Ray on its own affairs; `logs` has them
            console.print(line, soft_wrap=True, markup=False)

    with connection(session) as (jobs, ports):
        if ports:
            _serve_mlflow(session, ports[MLFLOW], console)
            console.print(f"Ray dashboard  http://127.0.0.1:{ports[DASHBOARD]}  (its token: {token_path()})")
            console.print(
                f"MLflow         http://127.0.0.1:{ports[MLFLOW]}  (once the first trial has begun)"
            )
        console.print("Ctrl-C leaves this view and not the benchmark.")
        return jobs.follow(session.job, show)


def _serve_mlflow(session: Session, port: int, console: Console) -> None:
    """MLflow's pages on the head's loopback, as soon as there is a store; the driver alone migrates it."""
    folder = shlex.quote(session.folder)
    serve = (
        f"python -m mlflow ui --host 127.0.0.1 --port {MLFLOW} --backend-store-uri sqlite:///$PWD/mlflow.db "
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


def conclude(session: Session, ending: Ending, wishes: Wishes, console: Console) -> int:
    """Bring results home, say what was spent, and take the cluster down if that is wished; the exit code."""
    code = {"SUCCEEDED": 0, "STOPPED": DETACHED}.get(ending.status, ending.code or 1)
    if ending.status != "SUCCEEDED":
        told = f" ({' '.join(ending.message.split())[:200]})" if ending.message and not ending.code else ""
        console.print(f"[yellow]The job ended as {ending.status}[/]{escape(told)}.", soft_wrap=True)
    if session.host:
        count = bring_home(session)
        console.print(
            f"{count} files are home in {escape(str(session.out))}, digests compared.", soft_wrap=True
        )
    else:
        console.print(f"Results are on the cluster, in {escape(session.folder)}.", soft_wrap=True)
    if session.file:
        console.print(spending(session))
        return teardown(session, wishes.teardown, console) or code
    return code


def teardown(session: Session, wish: bool | None, console: Console) -> int:
    """Take the cluster down, asking first unless told. 0, or 1 when something is left that may cost money."""
    if wish is None:
        wish = _agreed("Take the cluster down?", console, default=True)
    if not wish:
        console.print(_still_up(session.out), soft_wrap=True)
        return 0
    left = ray_down(session, lambda line: console.print(escape(line), soft_wrap=True))
    for line in left:
        console.print(f"[bold red]{escape(line)}[/]", soft_wrap=True)
    if not left:
        console.print("The cluster is down; nothing of it is left.")
        session.save(host="", file="")
    return 1 if left else 0
