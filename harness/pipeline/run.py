"""One benchmark from its plan to its leaderboard; `run_benchmark` reads from top to bottom."""

import errno
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from harness.config.benchmark import TINY_MODEL, Benchmark
from harness.config.plan import Plan, plan
from harness.config.studies import PreparedStudy, Study
from harness.core.atomic_files import Unwritable, write_whole, written
from harness.core.disk_space import out_place, ray_place, scratch_place, shortages
from harness.core.errors import InputError, RunStopped, command
from harness.core.exit_codes import COMPLETE, INCOMPLETE, INTERRUPTED, resume_command
from harness.core.home import temporary_folders
from harness.core.wording import duration, some
from harness.data.sources import forget_rows
from harness.pipeline import ending
from harness.pipeline.notify import Notifier, notified
from harness.pipeline.phases import timed
from harness.pipeline.prepare import prepare_studies, read_backbones, refuse_other_inputs
from harness.pipeline.recorder import let_go_of_ended
from harness.pipeline.remaining import missing, outdated, points, unsearched, winners
from harness.pipeline.resume import take_over
from harness.pipeline.steering import Steering, paused_lines
from harness.pipeline.usage import read_usage
from harness.pool.engine import Engine
from harness.pool.ray_causes import RayTrouble
from harness.runs.layout import RunFolder
from harness.runs.lock import only_driver
from harness.runs.record import Record
from harness.runs.store import ResultStore

MakeEngine = Callable[[int, int], Engine]


def run_benchmark(
    benchmark: Benchmark,
    console: Console,
    *,
    make_engine: MakeEngine | None = None,
    take_from: Path | None = None,
) -> int:
    """Run a benchmark, or the rest of the one in the output folder, and print its leaderboard.

    Args:
        make_engine: Creates the engine that trains the jobs; `None` for the harness's own.
        take_from: Another output folder, whose trials are reused if they fit the search spaces.

    Returns:
        0 if every final result exists, 1 if some are missing, 130 if interrupted.

    Raises:
        InputError: for bad input, before anything is trained.
    """
    checked = plan(benchmark)
    _refuse_full_disks(checked)
    with only_driver(checked.out), _copied(checked, console):
        try:
            with notified(
                benchmark.notify,
                checked.out,
                lambda line: console.print(f"[yellow]{escape(line)}[/]", soft_wrap=True),
            ) as notifier:
                code = _run(checked, console, make_engine, take_from, notifier)
                notifier.ended(code)
                return code
        except RunStopped as error:
            return _stopped(error, checked.out, console)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return _stopped(Unwritable(checked.out, error), checked.out, console)


def _refuse_full_disks(checked: Plan) -> None:
    """Raise `InputError` for disks without enough space to start."""
    places = [out_place(checked.out)]
    try:
        places.append(scratch_place(Path(temporary_folders()[0])))
        if checked.benchmark.cluster is None:
            from harness.pool.local_ray import ray_folder

            places.insert(0, ray_place(ray_folder()))
    except (OSError, RayTrouble) as error:
        raise InputError(str(error)) from None
    if problems := shortages(places):
        raise InputError(problems)


def _copied(checked: Plan, console: Console) -> AbstractContextManager[None]:
    """Keep the copy at `--storage-path`, if given; a lost output folder is restored from it.

    Raises:
        InputError: if nothing can be written there.
    """
    from harness.runs.mirror import Copy, copied, storage_problems

    uri = checked.benchmark.storage_path
    if uri is None:
        return nullcontext()
    if problems := storage_problems(uri):
        raise InputError(problems)
    if not RunFolder(checked.out).benchmark.exists() and (count := Copy(checked.out, uri).pull()):
        console.print(f"{count} files of this benchmark were restored from {escape(uri)}.", soft_wrap=True)
    return copied(checked.out, uri, lambda line: console.print(f"[yellow]{escape(line)}[/]", soft_wrap=True))


def _run(
    checked: Plan,
    console: Console,
    make_engine: MakeEngine | None,
    take_from: Path | None,
    notifier: Notifier,
) -> int:
    begun, benchmark = time.monotonic(), checked.benchmark
    _say_what(checked, console)
    store, studies = _prepare(checked, console)
    if take_from:
        taken = take_over(take_from, store, studies, benchmark)
        console.print(f"{some(taken, 'trial')} of {take_from} reused.")
    let_go_of_ended(checked.out, store.load())
    studies = _as_asked(studies, benchmark, store)
    interrupted = False
    if _left(store.load(), studies, benchmark):
        from harness.pipeline.stages import train

        try:
            interrupted = train(checked, studies, store, console, make_engine, notifier)
        finally:
            with written(checked.out):
                store.write_table()
    else:
        console.print("All results of this benchmark are already in the output folder; nothing is trained.")
    seconds = time.monotonic() - begun
    return _conclude(checked, studies, store, console, notifier, interrupted=interrupted, seconds=seconds)


def _as_asked(
    studies: Sequence[PreparedStudy], benchmark: Benchmark, store: ResultStore
) -> list[PreparedStudy]:
    """The studies with the trials that users have asked for by now."""
    steering = Steering(studies, benchmark, store)
    steering.turn()
    return steering.studies()


def _left(records: Sequence[Record], studies: Sequence[PreparedStudy], benchmark: Benchmark) -> bool:
    """Whether anything remains to be searched or trained."""
    return bool(
        unsearched(records, studies, benchmark)
        or outdated(records, studies, benchmark)
        or missing(records, studies, benchmark)
    )


def _stopped(error: RunStopped, out: Path, console: Console) -> int:
    cure = "Free some space there, then continue" if isinstance(error, Unwritable) else "Continue"
    console.print(
        f"[red]Stopped[/]: {escape(str(error))} Finished trials are kept, and open trials keep their last "
        f"checkpoint. {cure} with: {escape(resume_command(out))}",
        soft_wrap=True,
    )
    return INCOMPLETE


def _say_what(checked: Plan, console: Console) -> None:
    benchmark = checked.benchmark
    studies = [study for study in checked.studies if not study.is_control]
    controls = len(checked.studies) - len(studies)
    tasks = {study.task.name for study in studies}
    made = ["small generated DNA with planted motifs"] * any(study.task.generated for study in studies)
    made += ["a tiny OPT with random weights generated on this machine"] * (TINY_MODEL in benchmark.models)
    if made:
        console.print(
            f"[bold]Quickstart[/]: {', and '.join(made)}. {'' if len(made) == 1 else 'Nothing is downloaded. '}It "
            "shows how the harness works; its scores do not compare methods."
        )
    console.print(
        f"{some(studies, 'study')} ({some(tasks, 'task')} x {some(benchmark.models, 'backbone')} x "
        f"{some(benchmark.methods, 'method')}): {_trials(studies, benchmark)} of up to "
        f"{some(benchmark.epochs, 'epoch')} each, then {some(benchmark.seeds, 'seed')} of each "
        f"{'chosen point of the fronts' if benchmark.has_front else 'winner'}"
        f"{f', and of {controls} of them with random weights' if controls else ''}."
    )
    out = checked.out
    for name, what in (
        ("folder", str(out)),
        ("progress", f"{command('status', out)}, or the page {RunFolder(out).page.resolve()}"),
        ("MLflow", command("ui", out)),
        ("report", f"{command('report', out)}; it is also written at the end"),
    ):
        console.print(f"{name:9}{escape(what)}", soft_wrap=True)
    if benchmark.limit:
        console.print(f"[yellow]Caveat smoke: at most {benchmark.limit} rows of each split are used.[/]")
    for note in _once(checked.notes):
        console.print(f"[dim]{escape(note)}[/]")


def _trials(studies: Sequence[Study], benchmark: Benchmark) -> str:
    """Number of trials of each search; lower without settings to search, or with a small grid."""
    counts = {study.trials(benchmark) for study in studies}
    return f"{'up to ' * (len(counts) > 1)}{some(max(counts, default=0), 'trial')}"


def _once(notes: Sequence[str]) -> list[str]:
    """Notes `where: what`, with equal ones of several places joined."""
    places: dict[str, list[str]] = {}
    for note in notes:
        where, _, what = note.partition(": ")
        places.setdefault(what or where, []).append(where if what else "")
    return [": ".join(filter(None, ["; ".join(where), what])) for what, where in places.items()]


def _prepare(checked: Plan, console: Console) -> tuple[ResultStore, list[PreparedStudy]]:
    """Check backbones before anything is written, and data before the folder belongs to this benchmark."""
    from harness.data.quickstart import make_backbone

    sources = [source for source in checked.benchmark.models if source != TINY_MODEL]
    with timed(console, "Backbones checked"):
        with console.status("checking backbones"):
            backbones = read_backbones(sources)
        if TINY_MODEL in checked.benchmark.models:
            folder = make_backbone(checked.out.resolve() / "quickstart" / "model")
            backbones[TINY_MODEL] = read_backbones([str(folder)])[str(folder)]
    with timed(console, "Data prepared"):
        studies = prepare_studies(checked, backbones, lambda line: console.print(f"[dim]{escape(line)}[/]"))
    forget_rows()
    store = ResultStore(checked.out, checked.identity)
    refuse_other_inputs(store.load(), studies, checked.out)
    with written(checked.out):
        checked.write()
        write_whole(RunFolder(checked.out).repeat, checked.benchmark.repeat())
    return store, studies


def _conclude(
    checked: Plan,
    studies: Sequence[PreparedStudy],
    store: ResultStore,
    console: Console,
    notifier: Notifier,
    *,
    interrupted: bool,
    seconds: float,
) -> int:
    """Print results, missing results and locations; returns the exit code."""
    from harness.report.leaderboard import print_leaderboard, print_winners

    benchmark, records = checked.benchmark, store.load()
    if any(record.stage == "final" for record in records):
        keys = [(study.task.name, study.backbone, study.method) for study in studies]
        print_leaderboard(records, console, expected=keys, seeds=benchmark.seeds)
        notifier.winners = print_winners(records, console, expected=keys, seeds=benchmark.seeds)
    _say_failures(records, console)
    studies = _as_asked(studies, benchmark, store)
    unfinished = unsearched(records, studies, benchmark)
    for line in paused_lines(unfinished, benchmark, store):
        console.print(f"[yellow]paused[/] {escape(line)}", soft_wrap=True)
    _say_without_winner(records, [study for study in studies if study not in unfinished], benchmark, console)
    for line in read_usage(checked.out).get("cut", []):
        console.print(f"[yellow]cut[/] {escape(line)}", soft_wrap=True)
    chosen = points(records, studies, benchmark)
    finals = sum(len(chosen.get(study.key, [None])) for study in studies) * len(benchmark.seeds)
    lacking = len(missing(records, studies, benchmark))
    searched = sum(not study.is_control for study in studies)
    searches = searched - len(unfinished)
    notifier.text = (
        f"{'Interrupted' if interrupted else 'Done'} after {duration(seconds)}: {searches} of {searched} "
        f"searches and {finals - lacking} of {finals} final runs are complete."
    )
    console.print(notifier.text)
    if lacking:
        console.print(
            f"To continue: {escape(resume_command(checked.out))} (or the same command again).",
            soft_wrap=True,
        )
    finished = any(record.stage == "final" for record in records)
    reported = finished and not interrupted and ending.write_report(checked.out, console)
    ending.last_lines(checked.out, console, report=reported, records=records)
    return INTERRUPTED if interrupted else INCOMPLETE if lacking else COMPLETE


def _say_failures(records: Sequence[Record], console: Console, shown: int = 5) -> None:
    failed = [record for record in records if record.status == "failed"]
    for record in failed[:shown]:
        console.print(f"[red]failed[/] {escape(f'{record.id}: {record.error}')}", soft_wrap=True)
    if len(failed) > shown:
        console.print(f"[red]and {len(failed) - shown} more failures[/], see the records.")


def _say_without_winner(
    records: Sequence[Record], studies: Sequence[PreparedStudy], benchmark: Benchmark, console: Console
) -> None:
    """Print why a complete search has no winner: resuming would not help."""
    chosen = winners(records, studies, benchmark.scope)
    for study in studies:
        if study.key in chosen or study.is_control:
            continue
        of_study = [record for record in records if record.study == study.key and record.stage == "search"]
        failed = sum(record.status == "failed" for record in of_study)
        why = (
            "all trials failed"
            if failed == len(of_study)
            else f"no trial has a defined dev {study.task.metric}"
        )
        more = benchmark.num_samples + max(1, benchmark.num_samples // 2)
        console.print(
            f"[yellow]no winner[/] {escape(study.key)}: {why}, so nothing is tested; more trials "
            f"(--num-samples {more}) or another search space may find one.",
            soft_wrap=True,
        )
