"""Start of a benchmark on a cluster: checks, preview, confirmation, start, node checks, submission."""

import json
import shlex
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from harness.cluster.download import bring_back
from harness.cluster.file import ClusterFile, with_price
from harness.cluster.finish import TeardownOptions, agreed, still_up, teardown
from harness.cluster.follow import attach
from harness.cluster.jobs_api import NAMED, Jobs
from harness.cluster.joining import join
from harness.cluster.launch import ray_up, resolve
from harness.cluster.machines import mark_head
from harness.cluster.preview import check, folder_name, show_plan
from harness.cluster.session import FILE, Session, connection, load_session, use_token
from harness.cluster.spending import launched
from harness.cluster.ssh import ShellError
from harness.cluster.upload import INPUTS, Shipment, shipment
from harness.config.benchmark import SETTINGS, Benchmark
from harness.config.values import seconds_of
from harness.core.atomic_files import write_whole
from harness.core.cluster_address import JOBS
from harness.core.errors import InputError
from harness.core.wording import duration

NOT_STARTED = 1
NODES_S = 600.0
"""Seconds until the permanent machines of a file must have joined the cluster."""


def run_on_cluster(benchmark: Benchmark, options: TeardownOptions, console: Console) -> int:
    """Run a benchmark on its `cluster`, from the checks to the download of the results.

    Returns:
        The exit code of the benchmark; 130 after Ctrl-C, which leaves it running; 1 without confirmation.

    Raises:
        InputError: With all problems, before any machine is started.
    """
    assert benchmark.cluster is not None
    if not options.dry_run:
        use_token(of_its_own=JOBS.fullmatch(benchmark.cluster) is not None)
    with suppress(InputError):  # a missing price is reported with all other problems
        benchmark = with_price(benchmark)
    checked = check(benchmark, dry_run=options.dry_run)
    show_plan(checked, benchmark, console)
    if options.dry_run:
        return 0
    if (checked.out / FILE).is_file() and load_session(checked.out).job:
        session = _again(checked.out, console)
        if session is not None:
            return attach(session, options, console)
    if not options.yes and not agreed("Start?", console):
        console.print("Nothing was started; --yes starts without confirmation.")
        return NOT_STARTED
    if checked.file is None:
        session = Session(out=checked.out, address=str(benchmark.cluster), folder=checked.folder).save()
        return attach(_submit(session, benchmark, console), options, console)
    return _start(checked.file, checked.out, benchmark, options, console)


def _start(
    file: ClusterFile, out: Path, benchmark: Benchmark, options: TeardownOptions, console: Console
) -> int:
    """After the first machine was requested, a failure reports that machines may be running and offers to terminate
    them."""
    begun = time.monotonic()

    def say(line: str) -> None:
        console.print(f"{duration(time.monotonic() - begun):>8}  {escape(line)}", soft_wrap=True)

    config = resolve(file, say, benchmark.ssh_from)
    before = load_session(out) if (out / FILE).is_file() else None
    session = _session(file, before, out, benchmark, options)
    there = join(file, config, session, say)
    fresh = there is None and session.started != getattr(before, "started", None)
    try:
        session = there.save() if there else ray_up(file, config, session.save(), say)
        if there and file.provider == "aws":
            mark_head(config, out)
        session = session.save(started=launched(session))
        session = _submit(session, benchmark, console)
    except (InputError, ShellError, OSError) as error:
        for line in error.problems if isinstance(error, InputError) else [str(error)]:
            console.print(f"[bold red]{escape(line)}[/]", soft_wrap=True)
        # machines that were already up may hold results of an earlier run, so termination is not the default
        undone = teardown(load_session(out), options.teardown, console, nobody=fresh)
        return max(1, undone)
    except BaseException:
        console.print(still_up(out), soft_wrap=True)
        raise
    return attach(session, options, console)


def _again(out: Path, console: Console) -> Session | None:
    """The session of an earlier start of the same benchmark, if its job still runs."""
    session = load_session(out)
    try:
        with connection(session) as (jobs, _):
            if jobs.ending(session.job) is None:
                console.print(f"This benchmark is already running on the cluster, as {session.job}.")
                return session
    except (InputError, ShellError, RuntimeError, OSError):
        pass
    return None


def _session(
    cluster: ClusterFile,
    earlier: Session | None,
    out: Path,
    benchmark: Benchmark,
    options: TeardownOptions,
) -> Session:
    """The session of a start, not saved; it has the start of an earlier one that still has its machines."""
    still = earlier is not None and earlier.name == cluster.name and bool(earlier.host)
    hourly = cluster.ceiling()
    return Session(
        out=out,
        name=cluster.name,
        provider=cluster.provider,
        nodes=cluster.workers + 1,
        always=cluster.always,
        hourly=benchmark.price_per_hour if hourly is None else hourly,
        head_price=cluster.kinds[0].price if cluster.provider != "local" else None,
        worker_price=max((kind.price or 0.0 for kind in cluster.kinds[1:]), default=0.0) if hourly else None,
        started=earlier.started if earlier is not None and still else time.time(),
        file=str(cluster.path.resolve()),
        teardown=options.teardown,
    )


def _submit(session: Session, benchmark: Benchmark, console: Console) -> Session:
    """Send the files, check the nodes, submit the benchmark; returns the session with its job."""
    sent = _ship(session, benchmark, console)
    asked = {"settings": benchmark.stored(session.out)}
    (session.out / "cluster").mkdir(exist_ok=True)
    write_whole(session.out / "cluster" / SETTINGS, json.dumps(asked, indent=1) + "\n", mode=0o600)
    with connection(session) as (jobs, _):
        if not session.address:
            _doctor(session, jobs, console)
        with_it = sent.sent if session.address else ()
        name = f"{NAMED}{session.out.name}"
        job = jobs.submit(sent.arguments, name=name, sent=with_it, settings=sent.settings)
        if session.file and session.provider != "local":
            _tell_keeper(session, benchmark)
    session = session.save(job=job, folder=sent.settings["out"])
    console.print(f"Submitted as {job}.")
    return session


def _tell_keeper(session: Session, benchmark: Benchmark) -> None:
    """Tell the head how long it stays when nobody needs it, see `harness.cluster.head_keeper`."""
    keep = {"keep_s": seconds_of(benchmark.keep_head), "wait": session.teardown is False}
    session.remote.run(f"echo {shlex.quote(json.dumps(keep))} >~/lingo/keep_head.json")


def _ship(session: Session, benchmark: Benchmark, console: Console) -> Shipment:
    """Send the files named by options; data is prepared once, on the head."""
    if session.address:
        return shipment(benchmark, INPUTS, session.folder)
    home = session.remote.run("echo $HOME").strip()
    folder = f"{home}/lingo/runs/{folder_name(session.out)}"
    if bring_back(replace(session, folder=folder)):
        console.print("[dim]sending results of an earlier start[/]", soft_wrap=True)
    sent = shipment(benchmark, INPUTS.replace("~", home), folder)
    for item in sent.sent:
        console.print(f"[dim]sending {escape(str(item.local))}[/]", soft_wrap=True)
        session.remote.push(item.local, item.folder, exact=True)
    return sent


def _doctor(session: Session, jobs: Jobs, console: Console) -> None:
    """Check every node that is up; a run that cannot work is not started.

    Raises:
        InputError: With all failures.
    """
    arguments = ["-m", "harness.doctor.nodes", "--nodes", str(session.always), "--wait", str(NODES_S)]
    found, _ = jobs.answer(arguments, name="doctor", timeout=NODES_S + 300)
    problems = failures(found)
    if problems:
        raise InputError(problems)
    for node in found["nodes"]:
        words = [row["text"] for row in node["findings"] if row["about"] in ("machine", "device")]
        console.print(f"[green]ok  [/] {node['address']}: {escape('; '.join(words))}", soft_wrap=True)


def failures(found: dict[str, Any]) -> list[str]:
    """Problems that prevent a run, from the output of `harness.doctor.nodes`."""
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
        problems.append(f"{found['expected']} nodes were expected, but only these are up: {there}.")
    return problems
