"""What a cluster run would do, cost and need: checked as far as can be before any machine is started."""

import hashlib
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from harness.cluster import JOBS
from harness.cluster_files import ClusterFile, placeholders, read_cluster
from harness.cluster_inputs import PROGRAM, Shipment, shipment
from harness.cluster_session import Session, token_path
from harness.config import Benchmark, seconds_of
from harness.errors import InputError
from harness.progress import duration
from harness.results import config_hash
from harness.storage import storage_problems


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A benchmark that may be started on a cluster.

    Attributes:
        file: The cluster file; `None` for a cluster that is there.
        out: Output folder here.
        folder: Output folder on the head, `~` standing for its account's home.
        shipment: What is sent there and run there.
        notes: What could not be checked here.
    """

    file: ClusterFile | None
    out: Path
    folder: str
    shipment: Shipment
    notes: tuple[str, ...]


def check(benchmark: Benchmark, *, dry_run: bool) -> Checked:
    """Check options, data, backbones, the cluster file and the account, everything in one go.

    Args:
        dry_run: Leave out what needs credentials or other hosts.

    Raises:
        InputError: with every problem.
    """
    cluster = benchmark.cluster or ""
    problems: list[str] = []
    notes: list[str] = []
    file: ClusterFile | None = None
    if not JOBS.fullmatch(cluster):
        try:
            file = read_cluster(Path(cluster), filled_in=not dry_run)
            notes += [f"To be done first: {line}" for line in placeholders(Path(cluster))]
        except InputError as error:
            problems += error.problems
    identity = _identity(benchmark, problems, notes)
    out = benchmark.out or Path("results") / f"{benchmark.suite}-{config_hash(identity)[:8]}"
    folder = f"~/lingo/runs/{folder_name(out.resolve())}"
    sent = Shipment((), ())
    try:
        sent = shipment(benchmark, "~", folder)
    except InputError as error:
        problems += error.problems
    if file is not None and not dry_run:
        problems += account_problems(file, out)
    if benchmark.storage_path and not dry_run:
        problems += storage_problems(benchmark.storage_path)
    if dry_run and file is not None:
        notes.append(
            "A dry run asks nobody: credentials, quota, image and hosts are checked by the real one."
        )
    if file is None and sent.sent:
        notes.append(
            "Folders named here are not sent to a cluster that is there: they must exist on its head."
        )
    if problems:
        raise InputError(dict.fromkeys(problems))
    return Checked(file=file, out=out.resolve(), folder=folder, shipment=sent, notes=tuple(notes))


def folder_name(out: Path) -> str:
    """Name of the output folder on the head: two folders here never meet there."""
    return f"{out.name}-{hashlib.sha256(str(out).encode()).hexdigest()[:6]}"


def _identity(benchmark: Benchmark, problems: list[str], notes: list[str]) -> dict[str, object]:
    """What is measured; with data at hand, everything that a run here would check is checked."""
    from harness.plan import plan

    if benchmark.data_dir is None and not all(task.startswith("quickstart/") for task in benchmark.tasks):
        notes.append("Data comes from the hub, on the head: it is checked there, before anything is trained.")
        return dict(benchmark.identity())
    nowhere = Path("results") / ".none"  # the folder here may hold what came home, under other paths
    try:
        return dict(plan(benchmark.model_copy(update={"out": nowhere})).identity)
    except InputError as error:
        problems += error.problems
        return dict(benchmark.identity())


def account_problems(file: ClusterFile, out: Path) -> Iterator[str]:
    """What the provider, or the hosts themselves, would refuse."""
    from harness.cluster_launch import reachable, tools

    yield from tools()
    if file.provider == "local":
        (out / "cluster").mkdir(parents=True, exist_ok=True)
        yield from reachable(file, out / "cluster" / "known_hosts")
    elif file.provider == "aws":
        from harness.cluster_aws import aws_problems

        yield from aws_problems(file)
    else:
        from harness.cluster_clouds import cloud_problems

        yield from cloud_problems(file)


def show_plan(checked: Checked, benchmark: Benchmark, console: Console) -> None:
    """Print every machine, file and command, and the most that it can cost."""
    for line in plan_lines(checked, benchmark):
        console.print(escape(line), soft_wrap=True)


def plan_lines(checked: Checked, benchmark: Benchmark) -> Iterator[str]:
    """The plan, line by line."""
    file = checked.file
    if file is None:
        yield f"Cluster    {benchmark.cluster} (there already; it is neither started nor ended)"
    else:
        yield f"Cluster    {file.name} ({file.provider}, {file.path})"
        yield from _machine_lines(file)
        yield f"Cost       {cost_line(file, benchmark)}"
        yield f"Starts     ray up --yes --no-config-cache {checked.out / 'cluster' / file.path.name}"
        for there, here in (file.config.get("file_mounts") or {}).items():
            yield f"Copies     {here} -> every node, {there}"
    yield f"Token      {token_path()}" + ("" if token_path().is_file() else " (made at the start)")
    for item in checked.shipment.sent if file is not None else ():
        yield f"Sends      {item.local} -> head, {item.folder}"
    yield f"Program    {', '.join(PROGRAM)} (results, data, tests and environments stay here)"
    if file is not None:
        yield "Checks     python -m harness.cluster_doctor, a look at every node that is up"
    yield f"Runs       python run_benchmark.py {shlex.join(checked.shipment.arguments)}"
    if file is not None:
        yield "Tunnels    Ray dashboard (8265) and MLflow (5000) on 127.0.0.1, through SSH"
        yield f"Home       head, {checked.folder} -> {checked.out}, digests compared"
        yield f"Ends       ray down --yes {checked.out / 'cluster' / file.path.name} (asks first, or --teardown)"
    for note in checked.notes:
        yield f"Note       {note}"


def _machine_lines(file: ClusterFile) -> Iterator[str]:
    if file.provider == "local":
        hosts = file.config["provider"]
        yield f"Head       {hosts['head_ip']}"
        yield f"Workers    {', '.join(hosts.get('worker_ips', ()))}"
        return
    for number, kind in enumerate(file.kinds):
        price = f"${kind.price:g} an hour" if kind.price is not None else "price not in clusters/prices.yaml"
        count = "1 x" if number == 0 else f"0 to {min(kind.most, file.workers)} x"
        yield f"{'Workers' if number else 'Head':10} {count} {kind.instance}{', spot' if kind.spot else ''}, {price}"
    if len(file.kinds) > 2:
        yield f"           at most {file.workers} workers in all"


def cost_line(file: ClusterFile, benchmark: Benchmark) -> str:
    """The most that the machines can cost; discs and traffic come on top."""
    hourly = file.ceiling()
    if file.provider == "local":
        return "machines of your own"
    if hourly is None:
        return "not known: put the prices into clusters/prices.yaml"
    if benchmark.time_budget:
        hours = seconds_of(benchmark.time_budget) / 3600
        return (
            f"at most ${hourly:.2f} an hour; ${hourly * hours:.2f} for the search's {benchmark.time_budget}, "
            "the final stage and disks on top"
        )
    return f"at most ${hourly:.2f} an hour, ${hourly * 24:.2f} a day (set --time-budget for a limit); disks on top"


def spending(session: Session) -> str:
    """What the cluster has cost so far, from above."""
    hours = (time.time() - session.started) / 3600
    up = f"Up for {duration(hours * 3600)}"
    if session.provider == "local" or session.hourly is None:
        return f"{up}, {session.nodes} machines at most."
    return f"{up}: at most ${hours * session.hourly:.2f} for machines (all of them all the time, {session.nodes})."
