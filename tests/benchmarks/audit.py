"""Times and memory of the shortcut audit: real tasks, rows of DeepSEA's length, and generated rows.

    python -m tests.benchmarks.audit [--data ../shared/data] [--generated] [--only TEXT] [--json FILE]

Each task is audited in a process of its own, which has one thread; seconds are those of its processor. Of a task whose
train split is not there, half of dev stands for it. `--generated` makes random rows of the sizes and lengths of GUE's
28 tasks (where a published size is not known, that of the largest), and 60,000 rows of 500 bases. `--only` takes those
whose names have a text.
"""

import argparse
import csv
import itertools
import json
import os
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from harness.data.labelled_files import Rows
from harness.data.shortcuts import audit_shortcuts
from harness.data.tasks import SUITES, TASKS
from tests.benchmarks.measure import Row, say, table

GUE_MINUTES, GIB = 10.0, 2.0
LARGEST = 47_356
"""Rows of GUE's largest training split."""

MANY = "generated 60,000 rows"
SHARES = (0.8, 0.1, 0.1)
Work = tuple[str, Any]


def csv_rows(path: Path) -> Rows:
    """Sequences and labels of one file in GUE's layout; 0 as label where it has none."""
    with path.open(newline="") as file:
        lines = list(csv.reader(file))
    lines = lines[1:] if lines[0][0].casefold() == "sequence" else lines
    labels = [int(line[1]) if len(line) == 2 else 0 for line in lines]
    return Rows([line[0].upper() for line in lines], np.array(labels))


def real(folder: Path) -> tuple[str, dict[str, Rows]]:
    """(kind, splits) of a folder of GUE, or of a single file, which is cut."""
    if folder.is_file():
        rows = csv_rows(folder)
        edges = np.cumsum([0, *(round(share * len(rows.labels)) for share in SHARES)])
        parts = [rows.take(np.arange(a, min(b, len(rows.labels)))) for a, b in itertools.pairwise(edges)]
        return "multilabel", dict(zip(("train", "dev", "test"), parts, strict=True))
    splits = {path.stem: csv_rows(path) for path in folder.glob("*.csv")}
    if "train" not in splits:
        half = len(splits["dev"].labels) // 2
        splits |= {
            "train": splits["dev"].take(np.arange(half)),
            "dev": splits["dev"].take(np.arange(half, len(splits["dev"].labels))),
        }
    return "classification", splits


def generated(counts: tuple[int, ...], length: int) -> tuple[str, dict[str, Rows]]:
    """Random rows in two classes, of which one has a motif at a random place."""
    rng, splits = np.random.default_rng(0), {}
    for split, rows in zip(("train", "dev", "test"), counts, strict=True):
        bases = rng.integers(0, 4, (rows, length), dtype=np.uint8)
        labels, starts = rng.integers(0, 2, rows), rng.integers(0, length - 8, rows)
        for place in range(8):
            bases[labels == 1, starts[labels == 1] + place] = place % 4
        text = np.frombuffer(b"ACGT", dtype=np.uint8)[bases]
        splits[split] = Rows([row.tobytes().decode() for row in text], labels)
    return "classification", splits


def measure(work: Work) -> dict[str, Any]:
    """Seconds, rows and peak memory of one audit."""
    name, what = work
    kind, splits = real(what) if isinstance(what, Path) else generated(*what)
    begun, wall = time.process_time(), time.perf_counter()
    audit_shortcuts(name, kind, splits)  # type: ignore[arg-type]
    seconds, wall = time.process_time() - begun, time.perf_counter() - wall
    rows = sum(len(part.labels) for part in splits.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    length = max(map(len, splits["train"].sequences))
    return {"task": name, "rows": rows, "bases": length, "seconds": seconds, "wall": wall, "peak_gib": peak}


def works(data: Path | None, *, made: bool) -> Iterator[Work]:
    """Names of tasks, with a folder or file, or counts and length."""
    if data is not None:
        for path in sorted({found.parent for found in data.glob("gue/*/*/dev.csv")}):
            yield path.relative_to(data / "gue").as_posix(), path
        for path in sorted(data.glob("deepsea/*.csv")):
            yield f"deepsea/{path.stem}", path
    if made:
        for name in SUITES["gue"]:
            if TASKS[name].packed:
                continue
            counts = tuple(count or LARGEST // (1, 8, 8)[i] for i, count in enumerate(TASKS[name].rows))
            yield f"generated {name}", (counts, TASKS[name].length)
        yield MANY, ((48_000, 6_000, 6_000), 500)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--generated", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: list[dict[str, Any]] = []
    for work in works(options.data, made=options.generated):
        if options.only not in work[0]:
            continue
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
            one = alone.submit(measure, work).result()
        say(f"{one['task']}: {one['rows']:,} rows, {one['seconds']:.1f} s, {one['peak_gib']:.2f} GiB")
        found.append(one)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n")
    rows = [
        Row(f"{one['task']}, {one['rows']:,} rows of {one['bases']} bases", one["seconds"], "s")
        for one in found
    ]
    tasks = [one for one in found if one["task"].startswith("generated ") and "/" in one["task"]]
    if tasks:
        minutes = sum(one["seconds"] for one in tasks) / 60
        rows.append(Row.at_most(f"{len(tasks)} generated tasks of GUE's sizes", minutes, "min", GUE_MINUTES))
    if found and found[-1]["task"] == MANY:
        rows.append(Row.at_most("60,000 rows of 500 bases: peak memory", found[-1]["peak_gib"], "GiB", GIB))
    print(table(rows))


if __name__ == "__main__":
    main()
