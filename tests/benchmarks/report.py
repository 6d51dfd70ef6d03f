"""Time and memory of a report of many results.

    python -m tests.benchmarks.report [--rows 100000] [--scratch FOLDER] [--json FILE]

It makes a run in the paper's shape (14 tasks, four backbones, five methods, two baselines, five seeds) with so many
rows in `results.parquet` and a record file for each, and reports it in a process of its own. The peer is the same run
with its records alone, without the table.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from harness.runs.layout import file_name
from tests.benchmarks.measure import Row, table
from tests.support.paper_like import configuration, plan_of, record, records, studies, write_run, write_table

ROOT = Path(__file__).resolve().parents[2]
MOST_SECONDS, MOST_GIBIBYTES = 60.0, 2.0


def make_run(folder: Path, rows: int) -> Path:
    """The run: all final runs of the paper's shape, and search trials until there are `rows` rows."""
    finals = list(records(trials=0))
    run = write_run(folder / "run", finals, plan=plan_of(finals))
    rng, made = np.random.default_rng(1), len(finals)
    number = 0
    while made < rows:
        for task, backbone, method, score in studies(tuple(dict.fromkeys(r.task for r in finals))):
            if made == rows:
                break
            config, worse = configuration(rng, method)
            status = "failed" if made % 500 == 0 else "finished" if made % 3 == 0 else "stopped"
            found = record(
                task, backbone, method, "search", number, score - worse, rng, config=config, status=status
            )
            (run / "records" / file_name(found.id)).write_text(found.to_json())
            made += 1
        number += 1
    return run


def report(run: Path, out: Path) -> tuple[float, float]:
    """(seconds, GiB at most) of the command in a fresh process."""
    command = [sys.executable, str(ROOT / "run_benchmark.py"), "report", str(run), "--out", str(out)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"report ended with code {process.returncode}")
    return time.perf_counter() - started, usage.ru_maxrss / 2**20


def measure(scratch: Path, rows: int) -> list[Row]:
    """The rows of the benchmark's table."""
    run = make_run(scratch, rows)
    alone, heaviest = report(run, scratch / "a")
    write_table(run)
    seconds, gibibytes = report(run, scratch / "b")
    size = (scratch / "b" / "report.html").stat().st_size / 2**20
    return [
        Row.at_most(f"report of {rows:,} rows", seconds, "s", MOST_SECONDS),
        Row.at_most("peak memory", gibibytes, "GiB", MOST_GIBIBYTES),
        Row("report.html", size, "MiB"),
        Row("peer: the same from single records", alone, "s"),
        Row("peer: its peak memory", heaviest, "GiB"),
        Row("peer over table, time", alone / seconds, "x"),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(dir=given.scratch))
    try:
        rows = measure(scratch, given.rows)
    finally:
        shutil.rmtree(scratch)
    print(table(rows))
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
