"""Preview of a cluster run: actions, cost and requirements, checked as far as possible before the start."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from harness.cluster.addresses import (
    head_folder_problems,
    storage_place_problems,
    tracking_problems,
    tried_here,
)
from harness.cluster.file import ClusterFile, inspect
from harness.cluster.file_checks import placeholders
from harness.cluster.results_archive import MOST
from harness.cluster.session import token_path
from harness.cluster.upload import (
    INPUTS,
    PROGRAM,
    Shipment,
    link_problems,
    program_problems,
    shipment,
    size_problems,
)
from harness.config.benchmark import Benchmark
from harness.config.values import seconds_of
from harness.core.cluster_address import JOBS
from harness.core.errors import InputError, typed
from harness.core.store_address import place_without_secret
from harness.runs.mirror import address_problems, storage_problems
from harness.runs.record import config_hash


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A benchmark that may be started on a cluster.

    Attributes:
        file: The cluster file; `None` for an existing cluster.
        out: Local output folder.
        folder: Output folder on the head, `~` standing for its account's home.
        shipment: Files and command sent to the head.
        notes: Limits, and what could not be checked.
    """

    file: ClusterFile | None
    out: Path
    folder: str
    shipment: Shipment
    notes: tuple[str, ...]


def check(benchmark: Benchmark, *, dry_run: bool) -> Checked:
    """Check options, data, backbones, the cluster file and the account, and report all problems together.

    Args:
        dry_run: Omit checks that need credentials or other hosts.

    Raises:
        InputError: With all problems.
    """
    place = inspect_cluster(
        benchmark.cluster or "",
        storage_path=benchmark.storage_path,
        tracking_uri=benchmark.tracking_uri,
        dry_run=dry_run,
        price=benchmark.price_per_hour,
    )
    file, problems, notes = place.file, place.problems, place.notes
    identity = _identity(benchmark, problems, notes)
    out = benchmark.out or Path("results") / f"{benchmark.suite}-{config_hash(identity)[:8]}"
    folder = f"~/lingo/runs/{folder_name(out.resolve())}"
    sent = Shipment((), {})
    try:
        sent = shipment(benchmark, INPUTS, folder)
        problems += size_problems(sent.sent) if file is None else []
        problems += link_problems(sent.sent)
        problems += program_problems()
    except InputError as error:
        problems += error.problems
    if problems:
        raise InputError(dict.fromkeys(problems))
    return Checked(file=file, out=out.resolve(), folder=folder, shipment=sent, notes=tuple(notes))


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Target of a benchmark.

    Attributes:
        file: The cluster file, if it can be read.
        problems: Reasons why nothing can be started there.
        notes: Limits, and what could not be checked.
    """

    file: ClusterFile | None
    problems: list[str]
    notes: list[str]


def inspect_cluster(
    cluster: str,
    *,
    storage_path: str | None = None,
    tracking_uri: str | None = None,
    dry_run: bool,
    price: float | None = None,
) -> Destination:
    """Check cluster and storage, as far as possible without starting anything.

    Args:
        cluster: Value of `--cluster`.
        dry_run: Contact neither the provider nor other hosts.
        price: Price per hour of all machines, if given by the user.
    """
    problems: list[str] = []
    notes: list[str] = []
    file: ClusterFile | None = None
    if not cluster:
        problems.append("`--cluster` must name a cluster file or an address, but is empty.")
    elif login := _login_problems(cluster):
        problems += login
    elif JOBS.fullmatch(cluster):
        problems += [] if dry_run else _door_problems(cluster)
    elif "://" in cluster:
        problems.append(
            f"`--cluster` must be ray://HOST:PORT, http://HOST:PORT, auto or a file, but got {cluster}."
        )
    else:
        file, found = inspect(Path(cluster), filled_in=not dry_run)
        problems += found
        problems += _price_problems(file, price) if file else ()
        notes += [f"To do first: {line}" for line in placeholders(Path(cluster))] if file else ()
    if file is not None:
        problems += form_of_provider(file)
        if dry_run:
            notes.append(
                "A dry run contacts no provider: credentials, quota, image and hosts are checked by the real run."
            )
        else:
            problems += account_problems(file, notes.append)
    problems += tracking_problems(tracking_uri, file, cluster)
    if storage_path:
        problems += address_problems(storage_path)
        problems += storage_place_problems(storage_path, file, cluster, notes.append)
        if not dry_run and tried_here(storage_path, file, cluster):
            problems += storage_problems(storage_path)
        elif not dry_run and file is not None and file.provider == "local" and not problems:
            problems += head_folder_problems(storage_path, file)
    return Destination(file=file, problems=list(dict.fromkeys(problems)), notes=notes)


def _login_problems(address: str) -> list[str]:
    try:
        place_without_secret(address)
    except ValueError as error:
        return [f"`--cluster` {error}"]
    return []


def _door_problems(address: str) -> list[str]:
    """Reason why no job can be submitted to an address: no answer, no Ray, a different token, or no token required."""
    from harness.cluster.jobs_api import Jobs

    try:
        Jobs(address)
    except InputError as error:
        return error.problems
    return []


def _price_problems(file: ClusterFile, price: float | None) -> Iterator[str]:
    if price is not None:
        return
    for name in file.unpriced():
        yield (
            f"{file.path}: clusters/prices.yaml has no price for {name}, so the cost ceiling is unknown: add it, or "
            "set --price-per-hour for all machines together."
        )


def form_of_provider(file: ClusterFile) -> Iterator[str]:
    """Offline checks of the file by the provider's library."""
    if file.provider == "aws":
        from harness.cluster.providers.aws_checks import aws_form_problems

        yield from aws_form_problems(file)


def folder_name(out: Path) -> str:
    """Name of the output folder on the head, unique per local folder."""
    name = re.sub(r"[^\w.-]", "_", out.name)
    return f"{name}-{hashlib.sha256(str(out).encode()).hexdigest()[:6]}"


def _identity(benchmark: Benchmark, problems: list[str], notes: list[str]) -> dict[str, object]:
    """Checks of the benchmark; with local data, all checks of a local run."""
    from harness.config.plan import plan
    from harness.config.setting_checks import check_settings

    if benchmark.data_dir is None and not all(task.startswith("quickstart/") for task in benchmark.tasks):
        check_settings(benchmark, problems)
        notes.append("Data is downloaded from the hub on the head and checked there, before training.")
        return dict(benchmark.identity())
    nowhere = Path("results") / ".none"  # the local folder may contain downloaded results with other paths
    try:
        return dict(plan(benchmark.model_copy(update={"out": nowhere})).identity)
    except InputError as error:
        problems += error.problems
        return dict(benchmark.identity())


def account_problems(file: ClusterFile, note: Callable[[str], None]) -> Iterator[str]:
    """Problems for which the provider or the hosts would reject the cluster."""
    from harness.cluster.launch import reachable, tools

    yield from tools()
    if file.provider == "local":
        yield from reachable(file)
    elif file.provider == "aws":
        from harness.cluster.providers.aws_checks import aws_problems

        yield from aws_problems(file, note)
    else:
        from harness.cluster.providers.installed import cloud_problems

        yield from cloud_problems(file, note)


OPENS = {
    "aws": (
        "Opens      SSH from {source} only: security group {group}, created if it does not exist",
        "Creates    an SSH key and the role ray-autoscaler-v1, if they do not exist; both are free of charge",
    ),
    "gcp": (
        "Opens      nothing; the default network allows SSH from anywhere (to restrict it: clusters/README.md, "
        "Security)",
        "Creates    an SSH key and a service account, if they do not exist; both are free of charge",
    ),
    "azure": (
        "Opens      SSH from anywhere, by Ray's own template (to restrict it: clusters/README.md, Security)",
        "Creates    an SSH key, a network and an identity in the resource group; all are free of charge",
    ),
    "local": (),
}
"""Side effects of starting machines."""


def show_plan(checked: Checked, benchmark: Benchmark, console: Console) -> None:
    """Print all machines, files and commands, and the cost ceiling."""
    for line in plan_lines(checked, benchmark):
        console.print(escape(line), soft_wrap=True)


def plan_lines(checked: Checked, benchmark: Benchmark) -> Iterator[str]:
    """The preview, line by line."""
    file, settings = checked.file, checked.shipment.settings
    if file is None:
        yield f"Cluster    {benchmark.cluster} (existing; neither started nor terminated)"
    else:
        used = checked.out / "cluster" / file.path.name
        yield f"Cluster    {file.name} ({file.provider}, {file.path})"
        yield from _machine_lines(file)
        yield f"Cost       {cost_line(file, benchmark)}"
        group = (file.config["provider"].get("security_group") or {}).get("GroupName", "lingo-ssh-only")
        source = benchmark.ssh_from or "this machine's address"
        yield from (line.format(group=group, source=source) for line in OPENS[file.provider])
        yield f"Starts     {typed('ray', 'up', '--yes', '--no-config-cache', used)}"
        for there, here in (file.config.get("file_mounts") or {}).items():
            yield f"Copies     {here} -> every machine, {there}"
        yield f"Installs   {len(file.config.get('setup_commands') or ())} setup_commands of the file on every machine"
    yield f"Token      {token_path()}" + ("" if token_path().is_file() else " (created at the start)")
    for item in checked.shipment.sent:
        yield f"Sends      {item.local} -> {'head' if file is not None else 'with the job'}, {item.folder}"
    yield f"Program    {', '.join(PROGRAM)} (results, data, tests and environments are not sent)"
    if file is not None:
        yield "Checks     python -m harness.doctor.nodes on every machine that is up"
    said = {name: value for name, value in settings.items() if value not in (None, [])}
    yield f"Settings   {json.dumps(said)}"
    yield f"Runs       {typed('python', *checked.shipment.arguments)} (a file with these settings)"
    if file is not None:
        yield "Tunnels    Ray dashboard (8265) and MLflow (5000) on 127.0.0.1, through SSH"
        yield f"Downloads  head, {checked.folder} -> {checked.out}, digests verified"
        yield f"Terminates {typed('ray', 'down', '--yes', used)}, then checks what is left"
        yield "Confirms   before the first machine (not with --yes) and before termination (not with --teardown)"
    if file is None:
        yield f"Downloads  head, {checked.folder} -> {checked.out}, through the Jobs API (up to {MOST / 1e6:.0f} MB)"
    if benchmark.storage_path:
        yield f"Keeps      a copy of the results in {benchmark.storage_path}, every two minutes and at the end"
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
    """Cost ceiling of the machines, without disks and traffic, and of a head that nobody terminates."""
    hourly = file.ceiling()
    if file.provider == "local":
        return "your own machines"
    if hourly is None:
        return "unknown: add the prices to clusters/prices.yaml"
    head = seconds_of(benchmark.keep_head) / 3600 * (file.kinds[0].price or 0.0)
    keep = f"the head up to {benchmark.keep_head} longer than its job (${head:.2f}) unless terminated before"
    if benchmark.time_budget:
        hours = seconds_of(benchmark.time_budget) / 3600
        return (
            f"at most ${hourly:.2f} an hour; ${hourly * hours:.2f} for the search's {benchmark.time_budget}, "
            f"plus the final stage, {keep}, and disks"
        )
    return (
        f"at most ${hourly:.2f} an hour, ${hourly * 24:.2f} a day (set --time-budget for a limit), plus {keep}, "
        "and disks"
    )
