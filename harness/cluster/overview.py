"""`clusters`: what runs on all clusters of an account, since when, at what cost, and for which output folder."""

import json
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape

from harness.cluster.file import read_cluster, read_prices
from harness.cluster.file_checks import NEEDED, PLACEHOLDER
from harness.cluster.finish import agreed
from harness.cluster.machines import ASK, Machine, run_tag
from harness.cluster.session import FILE, Session, load_session
from harness.core.errors import InputError, command, typed
from harness.core.paths import ROOT
from harness.core.wording import duration, words


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was found.

    Attributes:
        machines: Of all clusters, including ended ones as long as the provider lists them.
        sessions: Sessions of output folders on this machine.
        names: Names of clusters in the cluster files.
        notes: What could not be asked, one line each.
    """

    machines: tuple[Machine, ...]
    sessions: tuple[Session, ...]
    names: frozenset[str]
    notes: tuple[str, ...]


def overview(files: Sequence[Path], folders: Sequence[Path]) -> Found:
    """Ask every provider of the cluster files and sessions.

    Args:
        files: Cluster files; by default those in `clusters/`.
        folders: Folders with output folders, besides `results`.
    """
    sessions = tuple(_sessions(folders))
    paths = [*(files or sorted((ROOT / "clusters").glob("*.yaml"))), *(Path(one.file) for one in sessions)]
    read = [
        (name, place) for path in dict.fromkeys(paths) for name, place in _provider(path, given=path in files)
    ]
    notes: list[str] = []
    machines: list[Machine] = []
    for provider, ask in ASK.items():
        if asked := [place for _, place in read if place["type"] == provider]:
            try:
                machines += ask(asked)
            except Exception as error:  # every provider's library has its own exceptions
                notes.append(f"{provider} cannot be asked ({words(error)}): its machines are missing here.")
    names = frozenset(name for name, _ in read) | {one.name for one in sessions}
    return Found(machines=tuple(machines), sessions=sessions, names=names, notes=tuple(notes))


def _provider(path: Path, *, given: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Cluster name and `provider` of a file. Files of the program with placeholders are passed over.

    Raises:
        InputError: If the user gave the file, and it cannot be used.
    """
    if given:
        file = read_cluster(path)
        yield file.name, file.config["provider"]
        return
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        name, place = str(config["cluster_name"]), config["provider"]
        if place["type"] in NEEDED and not any(
            PLACEHOLDER.search(str(place.get(each))) for each in NEEDED[place["type"]]
        ):
            yield name, place
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return


def _sessions(folders: Sequence[Path]) -> Iterator[Session]:
    for folder in (Path("results"), *folders):
        for path in [folder / FILE, *sorted(folder.glob(f"*/{FILE}"))]:
            if path.is_file():
                session = load_session(path.parent)
                if session.file:
                    yield session


def show_clusters(found: Found, console: Console, *, as_json: bool, now: float | None = None) -> int:
    """Print the clusters with their machines; returns 1 if a provider could not be asked."""
    now = time.time() if now is None else now
    rows = list(clusters(found, now))
    if as_json:
        console.print(
            json.dumps({"clusters": rows, "notes": found.notes}, indent=1), soft_wrap=True, markup=False
        )
        return 1 if found.notes else 0
    for row in rows:
        for line in _lines(row, now):
            console.print(escape(line), soft_wrap=True)
    if not any(row["up"] for row in rows):
        console.print("No machine runs." if not found.notes else "No machine was found.")
    for note in found.notes:
        console.print(f"[yellow]{escape(note)}[/]", soft_wrap=True)
    return 1 if found.notes else 0


def clusters(found: Found, now: float) -> Iterator[dict[str, Any]]:
    """One row of plain data for each cluster: those of this program in full, others of Ray by their machines alone."""
    prices = read_prices()
    groups: dict[tuple[str, str, str], list[Machine]] = {}
    for machine in found.machines:
        groups.setdefault((machine.provider, _region(machine), machine.cluster), []).append(machine)
    for (provider, place, name), machines in sorted(groups.items()):
        ours = name in found.names or any(machine.runs for machine in machines)
        costs = [machine.cost(now, prices) for machine in machines]
        up = [machine for machine in machines if machine.up]
        yield {
            "name": name,
            "provider": provider,
            "place": place,
            "ours": ours,
            "up": len(up),
            "since": min(machine.started for machine in up or machines),
            "cost": round(sum(filter(None, costs)), 2),
            "unpriced": sorted(
                {one.instance for one, cost in zip(machines, costs, strict=True) if cost is None}
            ),
            "runs": list(_runs(found, provider, name, machines)),
            "machines": [{**asdict(one), "cost": one.cost(now, prices)} for one in machines],
        }
    for session in found.sessions:
        if session.provider == "local" and session.host:
            yield {
                "name": session.name,
                "provider": "local",
                "place": session.host,
                "ours": True,
                "up": session.nodes,
                "since": session.started,
                "cost": 0.0,
                "unpriced": [],
                "runs": [{"folder": str(session.out), "here": True, "job": session.job}],
                "machines": [],
            }


def _region(machine: Machine) -> str:
    """Google's machines have zones; a cluster is in one region."""
    return machine.place.rpartition("-")[0] if machine.provider == "gcp" else machine.place


def _runs(found: Found, provider: str, name: str, machines: Iterable[Machine]) -> Iterator[dict[str, Any]]:
    """Output folders of a cluster, and whether they are here."""
    mine = [one for one in found.sessions if one.provider == provider and one.name == name and one.file]
    known = {run_tag(one.out)["Value"] for one in mine}
    for session in mine:
        yield {"folder": str(session.out), "here": True, "job": session.job}
    for text in sorted({text for machine in machines for text in machine.runs} - known):
        host, _, folder = text.partition(":")
        here = host == socket.gethostname() and (Path(folder) / FILE).is_file()
        yield {"folder": folder if here else text, "here": here, "job": ""}


def _lines(row: Mapping[str, Any], now: float) -> Iterator[str]:
    """A cluster for people."""
    since = f"up for {duration(now - row['since'])}" if row["up"] else "ended"
    cost = f"${row['cost']:.2f} so far at list prices" if row["provider"] != "local" else "your own machines"
    more = f" and {', '.join(row['unpriced'])}, not in clusters/prices.yaml" if row["unpriced"] else ""
    yield f"{row['name']} ({row['provider']}, {row['place']}): {_count(row['up'])}, {since}, {cost}{more}"
    for one in row["machines"]:
        machine = Machine(**{name: value for name, value in one.items() if name != "cost"})
        cells = f"  {machine.name:22} {machine.kind:14} {machine.instance:22} {machine.state:13}"
        price = "no price" if one["cost"] is None else f"${one['cost']:.2f}"
        yield f"{cells} {duration(machine.hours(now) * 3600):>12} {price:>10}"
    if not row["ours"]:
        yield "  a cluster of Ray that was not started by this program"
    for each in row["runs"]:
        if each["here"]:
            state = f"job {each['job']}" if each["job"] else "no job submitted"
            yield f"  {each['folder']}: {state}; {command('status', each['folder'])}"
        else:
            yield f"  {each['folder']}: this output folder is not on this machine."
    if row["ours"] and row["up"] and not any(each["here"] for each in row["runs"]):
        yield f"  To terminate its machines: {command('clusters', '--terminate', row['name'])}"


def _count(number: int) -> str:
    return f"{number} machine{'' if number == 1 else 's'}"


def terminate(found: Found, name: str, console: Console, *, yes: bool) -> int:
    """Terminate the machines of a cluster by their tag, after confirmation; returns 1 if some may be left.

    Raises:
        InputError: If no machine of such a cluster runs, or if its output folder is here, which has results to bring
            home first.
    """
    rows = [row for row in clusters(found, time.time()) if row["name"] == name and row["machines"]]
    machines = [one for one in found.machines if one.cluster == name and one.up]
    if not machines:
        raise InputError([f"`--terminate`: no machine of a cluster {name!r} runs.", *found.notes])
    here = [each["folder"] for row in rows for each in row["runs"] if each["here"]]
    if here:
        raise InputError(
            f"`--terminate` is for clusters without an output folder here; for this one: {command('stop', here[0])}"
        )
    for row in rows:
        for line in _lines(row, time.time()):
            console.print(escape(line), soft_wrap=True)
    question = f"Terminate {_count(len(machines))}? Results that are only there are lost."
    if not yes and not agreed(question, console):
        console.print("Nothing was changed.")
        return 1
    return max(
        _end(provider, [one for one in machines if one.provider == provider], console)
        for provider in {one.provider for one in machines}
    )


def _end(provider: str, machines: Sequence[Machine], console: Console) -> int:
    """Terminate machines of one provider; of Google and Azure, say the commands that do."""
    if provider == "aws":
        from harness.cluster.providers.aws import clients

        for place in sorted({one.place for one in machines}):
            ids = [one.name for one in machines if one.place == place]
            clients({"provider": {"region": place}})("ec2").terminate_instances(InstanceIds=ids)
            console.print(f"{_count(len(ids))} in {place} terminated.")
        return 0
    console.print("To terminate them, use the provider's command:")
    for one in machines:
        line = typed("gcloud", "compute", "instances", "delete", one.name, f"--zone={one.place}")
        if provider == "azure":
            query = typed(f"[?name=='{one.name}'].id")
            line = f"az vm delete --ids $(az vm list --query {query} --output tsv)"
        console.print(f"  {escape(line)}", soft_wrap=True)
    return 1
