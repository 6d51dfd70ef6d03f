"""Learning curves of random configurations, trained by the real engine: the tables that `search_tables` replays.

    python -m tests.benchmarks.search_curves --shared ../shared [--tasks …] [--methods …] [--trials 96]

For each task of the GUE files in the shared folder and each method, so many configurations of the method's search space
are drawn independently (configuration n of a task and method is a function of `SEED`, the two and n) and trained in
packs on a random sample of `ROWS` and the middle `TOKENS` tokens of each sequence, without early stopping.
`tests/benchmarks/tables/<task>-<method>.parquet` has one row for each trial and epoch: `trial`, the searched
settings, `epoch`, `score` (the task's dev metric), `dev_loss`, `train_loss` and `seconds` (a trial's share of its
pack's wall time since its start; the machine of the stored tables was busy with other work). A file is written after
every pack; a second call continues with the trials that it lacks.
"""

import argparse
import math
import tempfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from optuna.samplers import RandomSampler
from rich.console import Console

from harness.config.search_space import SearchSpace
from harness.config.search_space_file import read_space
from harness.data.prepared import PreparedTask, prepare
from harness.data.tasks import TASKS
from harness.runs.jobs import Job, Report
from harness.workers.engines import make_engine
from lingo.backbones import load_backbone
from tests.benchmarks.search_rows import Say

FOLDER = Path(__file__).parent / "tables"
ALL_TASKS, ALL_METHODS = ("prom/prom_core_tata", "EMP/H3", "prom/prom_300_tata"), ("lora", "ars")
SEED, TRIALS, TOKENS, EPOCHS, BATCH, PACK = 0, 96, 40, 4, 8, 16
ROWS = {"train": 96, "dev": 160, "test": 8}
"""Rows of each split; those of test are there because a task must have all three, and no trial reads them."""

STEPS = -(-ROWS["train"] // BATCH) * EPOCHS
"""T_total of a trial."""


def table_file(task: str, method: str) -> Path:
    """Where the curves of a task and method are."""
    return FOLDER / f"{task.replace('/', '-')}-{method}.parquet"


def space_of(task: str, method: str) -> SearchSpace:
    """The method's search space for the task, without first points."""
    return read_space(method).for_task(task).restrict(STEPS, epochs=EPOCHS)


def configuration(space: SearchSpace, task: str, number: int) -> dict[str, Any]:
    """Configuration `number` of a task: an independent draw."""
    seed = zlib.crc32(f"{SEED}|{task}|{space.method}|{number}".encode())
    return space.suggest(optuna.create_study(sampler=RandomSampler(seed)).ask())


def train(
    task: PreparedTask, source: str, space: SearchSpace, numbers: Sequence[int]
) -> Iterable[dict[str, Any]]:
    """Rows of the curves of some trials, which train together."""
    engine = make_engine(0, 1, pack=PACK)
    drawn = {number: configuration(space, task.name, number) for number in numbers}
    open_jobs = set()
    for number, values in drawn.items():
        config = {
            "seed": SEED, "method": space.method, "epochs": EPOCHS, "batch_size": BATCH, **space.fixed, **values
        }  # fmt: skip
        job = Job(
            id=str(number), study="", stage="search", backbone=source, data=str(task.folder), config=config
        )
        engine.admit(job)
        open_jobs.add(job.id)
    while open_jobs:
        for report in engine.advance():
            if report.dev:
                yield _row(report, drawn[int(report.job)], task.metric)
            if report.status != "running":
                open_jobs.remove(report.job)
    engine.close()


def _row(report: Report, values: dict[str, Any], metric: str) -> dict[str, Any]:
    return {
        "trial": int(report.job),
        **values,
        "epoch": report.epoch,
        "score": report.dev.get(metric, math.nan),
        "dev_loss": report.dev.get("loss", math.nan),
        "train_loss": report.train_loss,
        "seconds": report.seconds / PACK,
    }


def read(task: str, method: str) -> list[dict[str, Any]]:
    """Rows of the curves so far."""
    file = table_file(task, method)
    return pq.read_table(file).to_pylist() if file.exists() else []


def make(task: str, method: str, shared: Path, trials: int, say: Say) -> None:
    """The next pack of trials that the file of a task and method lacks below number `trials`."""
    rows, source = read(task, method), str((shared / "models" / "stories260K").resolve())
    left = [number for number in range(trials) if number not in {row["trial"] for row in rows}]
    if not left:
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "raw" / task
        folder.mkdir(parents=True)
        for split, count in ROWS.items():
            table = pd.read_csv(shared / "data" / "gue" / task / f"{split}.csv")
            table.sample(count, random_state=SEED).to_csv(folder / f"{split}.csv", index=False)
        backbone = load_backbone(source)
        prepared = prepare(
            TASKS[task],
            Path(scratch) / "raw",
            Path(scratch) / "data",
            tokenizer=backbone.tokenizer,
            pad_id=backbone.pad_id,
            max_length=TOKENS,
            long="center",
        )
        rows += train(prepared, source, space_of(task, method), left[:PACK])
    rows.sort(key=lambda row: (row["trial"], row["epoch"]))
    file = table_file(task, method)
    written = file.with_suffix(".tmp")
    pq.write_table(pa.Table.from_pylist(rows), written, compression="zstd")
    written.replace(file)
    last = [row["score"] for row in rows if row["epoch"] == EPOCHS]
    say(f"{file.name}: {len(last)} trials, last scores {min(last):.3f} to {max(last):.3f}")


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--tasks", nargs="+", default=list(ALL_TASKS))
    parser.add_argument("--methods", nargs="+", default=list(ALL_METHODS))
    parser.add_argument("--trials", type=int, default=TRIALS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    say = Console(stderr=True).print
    for trials in range(PACK, options.trials + PACK, PACK):  # all tables grow together
        for task in options.tasks:
            for method in options.methods:
                make(task, method, options.shared, min(trials, options.trials), say)


if __name__ == "__main__":
    main()
