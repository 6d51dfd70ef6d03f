"""Preparation of a large table of one's own: rows a second of one core, and the most memory.

    python -m tests.benchmarks.own_data [--rows 5000000] [--length 40] [--tokenizer FOLDER]

A CSV file of random sequences with classes 0 and 1 is written below the scratch folder, read, cut into splits, audited
and tokenised, by nucleotide or with a backbone's own tokenizer. CPU seconds are those of the process after its imports;
its peak memory is that of the whole process, PyTorch included.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from harness.data.own_data import own_task
from harness.data.prepared import prepare
from lingo.nucleotides import bare_bases
from tests.benchmarks.measure import Row, table

BLOCK = 100_000


def write(path: Path, rows: int, length: int) -> None:
    """Random sequences of one length."""
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(b"sequence,label\n")
        for start in range(0, rows, BLOCK):
            count = min(BLOCK, rows - start)
            tail = np.tile(np.frombuffer(b",0\n", np.uint8), (count, 1))
            tail[:, 1] += rng.integers(0, 2, count).astype(np.uint8)
            letters = np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, (count, length))]
            file.write(np.hstack([letters, tail]).tobytes())


def peak() -> float:
    """Most resident memory of this program so far, in GiB: getrusage counts that of the program that started it too."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) / 2**20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--length", type=int, default=40)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--scratch", type=Path)
    given = parser.parse_args()
    tokenizer = bare_bases()
    if given.tokenizer is not None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(given.tokenizer, local_files_only=True)
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        folder = Path(scratch)
        write(folder / "table.csv", given.rows, given.length)
        begun = time.process_time()
        task = own_task(str(folder / "table.csv"))
        read = time.process_time() - begun
        prepare(task, folder, folder / "prepared", tokenizer=tokenizer, pad_id=0)
        every = time.process_time() - begun
    rows = [
        Row(f"{given.rows:,} rows of {given.length} letters: reading and cutting", read, "CPU s"),
        Row.at_least("all of the preparation, one core", given.rows / every, "rows/s", 100_000),
        Row.at_most("most memory", peak(), "GiB", 1.5),
    ]
    print(table(rows))


if __name__ == "__main__":
    main()
