"""Figures of the data side: packing, size and memory of DeepSEA's conversion, decoding, and access to prepared tasks.

    python -m tests.benchmarks.data [--rows 1000000] [--test-rows 455024] [--scratch FOLDER] [--json FILE]

It writes files of DeepSEA's layout with random bases (4 GB of one-hot bytes for a million rows) below the scratch
folder and removes them at the end. One thread; times of work in memory are CPU seconds.
"""

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import h5py
import numpy as np

from harness.data.deepsea.convert import HISTONES, LABELS, LENGTH, ORDER
from harness.data.packed import PackedSplit
from harness.data.prepared import open_prepared, prepare
from harness.data.tasks import TaskRow
from harness.data.two_bit import pack, texts
from tests.benchmarks.measure import Row, say, table

ROOT = Path(__file__).resolve().parents[2]
BLOCK = 20_000
PUBLISHED = 4_400_000
"""Rows of DeepSEA's train.mat."""


def one_hot(rng: np.random.Generator, n: int) -> np.ndarray:
    """Random bases as MATLAB lays them out: uint8 `[1000, 4, n]`; one in 256 unknown, far more than real."""
    codes = np.frombuffer(rng.bytes(LENGTH * n), dtype=np.uint8).reshape(LENGTH, 1, n)
    known = codes & 3 == np.arange(4, dtype=np.uint8)[:, None]
    return np.asarray((known & (codes != 255)).astype(np.uint8))


def histone_bits(rng: np.random.Generator, n: int) -> np.ndarray:
    """uint8 `[919, n]`, one label in thirty."""
    return (np.frombuffer(rng.bytes(LABELS * n), dtype=np.uint8).reshape(LABELS, n) < 8).astype(np.uint8)


def write_sources(folder: Path, rows: int, test_rows: int) -> None:
    """train.mat, valid.mat, test.mat and predictor.names."""
    rng = np.random.default_rng(0)
    with h5py.File(folder / "train.mat", "w") as file:
        x = file.create_dataset("trainxdata", (LENGTH, 4, rows), dtype="u1")
        y = file.create_dataset("traindata", (LABELS, rows), dtype="u1")
        for start in range(0, rows, BLOCK):
            n = min(BLOCK, rows - start)
            x[:, :, start : start + n], y[:, start : start + n] = one_hot(rng, n), histone_bits(rng, n)
    write_v5(folder / "valid.mat", "valid", 8_000, rng)
    write_v5(folder / "test.mat", "test", test_rows, rng)
    names = ["cell|CTCF|None"] * (LABELS - HISTONES) + ["cell|H3K27ac|None"] * HISTONES
    (folder / "predictor.names").write_text("\n".join(names) + "\n")


def write_v5(path: Path, stem: str, rows: int, rng: np.random.Generator) -> None:
    """A compressed v5 file, its bytes drawn and deflated piece by piece."""
    with path.open("wb") as file:
        file.write(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM")
        _element(file, f"{stem}xdata", (rows, 4, LENGTH), _one_hot_columns(rng, rows))
        _element(file, f"{stem}data", (rows, LABELS), iter([histone_bits(rng, rows).tobytes()]))


def _one_hot_columns(rng: np.random.Generator, rows: int) -> Iterator[bytes]:
    for _ in range(LENGTH):
        codes = np.frombuffer(rng.bytes(rows), dtype=np.uint8) & 3
        yield (codes == np.arange(4, dtype=np.uint8)[:, None]).astype(np.uint8).tobytes()


def _element(file: Any, name: str, shape: tuple[int, ...], pieces: Iterator[bytes]) -> None:
    size = int(np.prod(shape))
    flags = struct.pack("<IIII", 6, 8, 9, 0)
    dims = struct.pack(f"<II{len(shape)}i", 5, 4 * len(shape), *shape) + bytes(4 * (len(shape) % 2))
    label = struct.pack("<II", 1, len(name)) + name.encode() + bytes(-len(name) % 8)
    body = flags + dims + label + struct.pack("<II", 2, size)
    deflate, start, written = zlib.compressobj(1), file.tell(), 0
    file.write(bytes(8))
    written += file.write(deflate.compress(struct.pack("<II", 14, len(body) + size + -size % 8) + body))
    for piece in pieces:
        written += file.write(deflate.compress(piece))
    written += file.write(deflate.compress(bytes(-size % 8)) + deflate.flush())
    file.seek(start)
    file.write(struct.pack("<II", 15, written))
    file.seek(0, 2)


def packing_rows(repetitions: int = 5) -> list[Row]:
    """Bases and labels of blocks that are in memory."""
    rng = np.random.default_rng(1)
    x, y = one_hot(rng, BLOCK), histone_bits(rng, BLOCK)[-HISTONES:]

    def work() -> None:
        pack(x, ORDER)
        np.packbits(y, axis=0)

    return [Row.at_least("packing, one core", BLOCK / _best(work, repetitions), "sequences/s", 100_000)]


def _best(work: Callable[[], object], repetitions: int) -> float:
    """Least CPU seconds of one call: what the machine's other work disturbs least."""
    times = []
    for _ in range(repetitions):
        begun = time.process_time()
        work()
        times.append(time.process_time() - begun)
    return min(times)


CONVERT = """
import sys, time
from pathlib import Path
from harness.data.deepsea.convert import convert
begun, cpu = time.monotonic(), time.process_time()
made = convert(Path(sys.argv[1]), Path(sys.argv[2]), order="AGCT")
# Of this program alone: getrusage counts the peak of the process that started it as well.
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(time.monotonic() - begun, time.process_time() - cpu,
      peak, made.folder, sep="\\n")
"""


def conversion_rows(folder: Path, rows: int, test_rows: int) -> tuple[list[Row], Path]:
    """The whole conversion in a process of its own."""
    say(f"writing {rows:,} rows of train.mat and {test_rows:,} of test.mat …")
    source = folder / "source"
    source.mkdir()
    write_sources(source, rows, test_rows)
    say("converting …")
    command = [sys.executable, "-c", CONVERT, str(source), str(folder / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    wall, cpu, peak, made = done.stdout.split()
    size = sum(path.stat().st_size for path in Path(made).glob("train-*.arrow"))
    total = rows + test_rows + 8_000
    return [
        Row("conversion of all files: wall", total / float(wall), "sequences/s"),
        Row("conversion of all files: CPU", total / float(cpu), "sequences/s"),
        Row.at_most("conversion: peak resident memory", float(peak) / 2**20, "GiB", 1.5),
        Row(f"bytes of {rows:,} rows", size / 1e9, "GB"),
        Row.at_most(f"bytes of {PUBLISHED:,} rows, extrapolated", size / rows * PUBLISHED / 1e9, "GB", 1.3),
    ], Path(made)


def decoding_rows(made: Path, batch: int = 1024, repetitions: int = 40) -> list[Row]:
    """Batches of the reader as letters, in order and drawn at random."""
    split = PackedSplit(made, "train")
    rng = np.random.default_rng(2)
    order = np.arange(batch)
    chosen = [rng.integers(0, len(split), batch) for _ in range(repetitions)]
    split.letters(chosen[0])
    found = []
    for name, work in (
        (
            "letters, rows in order",
            lambda: [split.letters((order + i * batch) % len(split)) for i in range(repetitions)],
        ),
        ("letters, random rows", lambda: [split.letters(rows) for rows in chosen]),
        ("Python strings, random rows", lambda: [texts(split.letters(rows)) for rows in chosen]),
    ):
        rate = batch * repetitions / _best(work, 3)
        name = f"decoding batches of {batch} x {LENGTH} bp: {name}"
        found.append(Row.at_least(name, rate, "rows/s", 200_000))
    return found


def access_rows(folder: Path, tokenizer: Any, count: int = 2_000, batch: int = 8) -> list[Row]:
    """A prepared task read in batches as training reads it, beside tokenising each sequence when it is needed."""
    rng = np.random.default_rng(3)
    (folder / "own").mkdir()
    sequences = ["".join(row) for row in rng.choice(list("ACGT"), (count, LENGTH))]
    for split, rows in (("train", sequences), ("dev", sequences[:10]), ("test", sequences[10:20])):
        lines = [f"{text},{i % 2}" for i, text in enumerate(rows)]
        (folder / "own" / f"{split}.csv").write_text("\n".join(["sequence,label", *lines]) + "\n")
    row = TaskRow(name="own", family="own", num_labels=2, length=LENGTH, domain="DNA")
    made = prepare(row, folder, folder / "prepared", tokenizer=tokenizer, pad_id=1)
    train = open_prepared(made.folder).train
    batches = rng.permutation(count).reshape(-1, batch)
    mapped = _best(lambda: [train.padded(rows, 1) for rows in batches], 5) / count
    few = [sequences[i] for i in batches[:12].reshape(-1)]
    single = _best(lambda: [tokenizer(text)["input_ids"] for text in few], 5) / len(few)

    def batched() -> None:
        for start in range(0, len(few), batch):
            tokenizer(few[start : start + batch], padding=True, return_tensors="np")

    together = _best(batched, 5) / len(few)
    name = f"{batch} x {LENGTH} bp"
    return [
        Row(f"memory-mapped, padded batches of {name}", 1 / mapped, "samples/s"),
        Row("peer: tokenised at access, one by one", 1 / single, "samples/s"),
        Row(f"peer: tokenised at access, batches of {name}", 1 / together, "samples/s"),
        Row.at_least("memory-mapped / tokenised at access, one by one", single / mapped, "x", 100),
        Row.at_least("memory-mapped / tokenised at access, in batches", together / mapped, "x", 100),
    ]


def opt_tokenizer(folder: Path) -> Any:
    """OPT's own from the developers' data, or the quickstart's with the same rules."""
    from transformers import AutoTokenizer

    shared = Path(os.environ.get("LINGO_SHARED", ROOT.parent / "shared")) / "data/tokenizers/opt"
    if shared.is_dir():
        return AutoTokenizer.from_pretrained(shared)
    from harness.data.quickstart import make_backbone

    say("no OPT tokenizer in the developers' data: the quickstart's is used")
    return AutoTokenizer.from_pretrained(make_backbone(folder / "model"))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--test-rows", type=int, default=455_024)
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        folder = Path(scratch)
        rows = packing_rows()
        rows += access_rows(folder, opt_tokenizer(folder))
        converted, made = conversion_rows(folder, options.rows, options.test_rows)
        rows += converted + decoding_rows(made)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
