"""The remaining work of a benchmark and its outdated final runs, from records only."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from harness.config.benchmark import Benchmark
from harness.config.scopes import merge, trials_of
from harness.config.studies import PreparedStudy
from harness.runs.controls import pretrained_of
from harness.runs.front import by_study, final_points
from harness.runs.jobs import Job
from harness.runs.layout import SUPERSEDED, RunFolder
from harness.runs.record import Record, config_hash
from harness.runs.selection import Scope, group_of, has_ended, joint_winner, trials_by_number
from harness.runs.store import ResultStore, load_folder
from lingo.fresh_names import fresh_name
from lingo.methods import METHODS


def winners(
    records: Iterable[Record], studies: Sequence[PreparedStudy], scope: Scope = "task"
) -> dict[str, Record]:
    """For each study the record of its search group's winning trial; groups without a winner are left out.

    A control has that of its pretrained study. See `joint_winner`.
    """
    found: dict[str, Record] = {}
    records = list(records)
    for members in groups([study for study in studies if not study.is_control], scope):
        metrics = {study.key: study.task.metric for study in members}
        found |= joint_winner(records, metrics)
    for study in studies:
        pretrained = f"{study.task.name}|{pretrained_of(study.backbone)}|{study.method}"
        if study.is_control and pretrained in found:
            found[study.key] = found[pretrained]
    return found


def groups(studies: Sequence[PreparedStudy], scope: Scope) -> list[list[PreparedStudy]]:
    """The studies of each search group, see `harness.runs.selection.group_of`."""
    found: dict[str, list[PreparedStudy]] = {}
    for study in studies:
        task, backbone, method = study.task, study.backbone, study.method
        key = group_of(scope, task=task.name, family=task.family, backbone=backbone, method=method)
        found.setdefault(key, []).append(study)
    return list(found.values())


def unsearched(
    records: Sequence[Record],
    studies: Sequence[PreparedStudy],
    benchmark: Benchmark,
) -> list[PreparedStudy]:
    """The studies of search groups that lack ended trials (for a grid: points), or one that a user added.

    A trial has ended if all its members have, or one failed or was stopped; a killed trial has not.
    """
    left: list[PreparedStudy] = []
    for members in groups([study for study in studies if not study.is_control], benchmark.scope):
        keys = {study.key for study in members}
        trials = trials_by_number([record for record in records if record.study in keys])
        ended = {
            number
            for number, trial in trials.items()
            if has_ended([record.status for record in trial.values()], len(keys))
        }
        added = {one.number for one in members[0].added}
        space = merge([study.space for study in members])
        samples = max(members[0].samples or 0, benchmark.num_samples)
        drawn = trials_of(space, searcher=benchmark.searcher, num_samples=samples)
        if len(ended - added) < drawn or added - ended:
            left += members
    return left


def points(
    records: Iterable[Record], studies: Sequence[PreparedStudy], benchmark: Benchmark
) -> dict[str, list[Record]]:
    """For each study that has a winner the search records whose configurations the final stage trains: the winner's, or
    with several objectives those of points of the front. A control has that of its pretrained study, of a front the
    point with the best score."""
    records = list(records)
    best = winners(records, studies, benchmark.scope)
    if not benchmark.has_front:
        return {key: [record] for key, record in best.items()}
    held = by_study(records)
    found = {key: final_points(held[won.study], benchmark.most_winners) for key, won in best.items()}
    controls = {study.key for study in studies if study.is_control}
    return {key: chosen[-1:] if key in controls else chosen for key, chosen in found.items()}


def missing(
    records: Sequence[Record], studies: Sequence[PreparedStudy], benchmark: Benchmark
) -> list[tuple[PreparedStudy, Record | None, int]]:
    """The final runs that are not finished: study, search record of their configuration (`None` as long as there is
    none) and seed."""
    have = {
        (record.study, _number(record, benchmark), record.seed)
        for record in records
        if (record.stage, record.status) == ("final", "finished")
    }
    chosen: Mapping[str, Sequence[Record | None]] = points(records, studies, benchmark)
    return [
        (study, won, seed)
        for study in studies
        for won in chosen.get(study.key) or [None]
        for seed in benchmark.seeds
        if (study.key, _number(won, benchmark), seed) not in have
    ]


def _number(record: Record | None, benchmark: Benchmark) -> int | None:
    """What tells the final runs of a point of a front from those of others, see `harness.runs.record.Record.trial`."""
    return record.trial if record is not None and benchmark.has_front else None


def final_jobs(
    records: Sequence[Record],
    studies: Sequence[PreparedStudy],
    benchmark: Benchmark,
    adapters: Path | None = None,
    *,
    checkpoints: Path | None = None,
) -> list[Job]:
    """The missing final runs of studies that have a winner; their adapters are written below `adapters`.

    Those of a front have the number of their point in their names.

    Args:
        checkpoints: See `harness.runs.jobs.Job`.
    """
    jobs = []
    for study, won, seed in missing(records, studies, benchmark):
        if won is not None:
            point = [f"point-{won.trial:04d}"] if benchmark.has_front else []
            jobs.append(
                Job(
                    id="/".join([study.key, "final", *point, f"seed-{seed}"]),
                    study=study.key,
                    stage="final",
                    backbone=fresh_name(study.source, seed) if study.is_control else study.source,
                    data=str(study.data),
                    config={**won.config, "seed": seed},
                    adapter=_adapter_folder(adapters, study, [*point, f"seed-{seed}"]),
                    checkpoints=str(checkpoints) if checkpoints else None,
                    alone=True,
                    evaluations=study.evaluations,
                    metric=study.task.metric,
                )
            )
    return jobs


def _adapter_folder(adapters: Path | None, study: PreparedStudy, parts: Sequence[str]) -> str | None:
    """`<task>/<backbone>/<method>/seed-<n>`; none for full fine-tuning, whose result is a whole model, and for
    controls."""
    if adapters is None or study.is_control or METHODS[study.method].trains_all:
        return None
    names = [re.sub(r"[^\w.-]+", "_", name) for name in (study.task.name, study.backbone, study.method)]
    return str(adapters.joinpath(*names, *parts))


def outdated(
    records: Sequence[Record], studies: Sequence[PreparedStudy], benchmark: Benchmark
) -> list[Record]:
    """The final records whose configuration is not, or no longer, that of their study's winner, or of a point of its
    front."""
    chosen = {
        study: {(_number(won, benchmark), _without_seed(won)) for won in found}
        for study, found in points(records, studies, benchmark).items()
    }
    return [
        record
        for record in records
        if record.stage == "final"
        and record.study in chosen
        and (_number(record, benchmark), _without_seed(record)) not in chosen[record.study]
    ]


def _without_seed(record: Record) -> str:
    return config_hash({**record.config, "seed": 0})


def set_aside(store: ResultStore, records: Iterable[Record]) -> list[Record]:
    """Remove records from the results, marked as superseded.

    Returns:
        The marked records.
    """
    kept = [replace(record, marks=[*record.marks, SUPERSEDED]) for record in records]
    for record in kept:
        store.set_aside(record)
    return kept


def with_new_names(jobs: Iterable[Job], out: Path, best: dict[str, Record]) -> list[Job]:
    """The final jobs; a job with the name of an outdated run gets another name, with the winner's number."""
    used = {record.id for record in load_folder(RunFolder(out).superseded)}
    return [_renamed(job, best, used) for job in jobs]


def _renamed(job: Job, best: dict[str, Record], used: Collection[str]) -> Job:
    """A point of a front may leave it, and be trained again: its name then has the winner's number several times."""
    name = job.id
    while name in used:
        study, _, seed = name.rpartition("/")
        name = f"{study}/trial-{best[job.study].trial or 0:04d}/{seed}"
    return replace(job, id=name)
