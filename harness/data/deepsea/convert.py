"""DeepSEA's data (Zhou and Troyanskaya, 2015) with the 104 human histone labels, from its MATLAB files.

`train.mat`, `valid.mat` and `test.mat` contain one-hot sequences of 1,000 bp in channels A, G, C, T and 919 labels, as
arrays `<split>xdata` (samples x 4 x 1000) and `<split>data` (samples x 919). They are converted to 2 bits per base and
one bit per label (`harness.data.packed`), block by block, so that memory use does not grow with the data.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.atomic_files import write_whole
from harness.core.errors import InputError
from harness.data.deepsea.matlab import SampleArray
from harness.data.packed import META, PackedSplit, write_shard
from harness.data.two_bit import LETTERS, pack, texts
from lingo.sequences import reverse_complement

FORMAT = 1
TASK = "deepsea/histone"
FILES = {"train": "train", "dev": "valid", "test": "test"}
"""Name of each split in DeepSEA's files."""

LENGTH, LABELS, HISTONES = 1000, 919, 104
ORDER = "AGCT"
HISTONE = re.compile(r"H(2A|2B|3|4)(K\d+|Z)")
"""Pattern of the factor in the feature name of a histone mark: H3K27ac, H2AZ."""

BLOCK = 65_536
"""Samples read at once: 250 MiB of one-hot bytes, read in pieces of 64 KiB (fewer samples of wider numbers)."""

SHARD = BLOCK
WIDEST = BLOCK
"""Samples of the widest HDF5 chunk to which blocks are aligned."""

PROBE = 256
"""Samples from which strands and base order are inferred."""

Progress = Callable[[str, int, int], None]
"""Called with the split, the number of samples done and the total."""


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A converted data set.

    Attributes:
        folder: Its location.
        rows: Samples of each split.
        strands: `both` for splits whose second half is the reverse complement of the first.
        unknown: Unknown bases of each split.
        bytes: Size of all shards.
    """

    folder: Path
    rows: dict[str, int]
    strands: dict[str, str]
    unknown: dict[str, int]
    bytes: int


def histone_labels(path: Path) -> list[dict[str, Any]]:
    """Position (from 0) and name of each histone mark in `predictor.names`, one `cell|factor|treatment` per line.

    Names are not unique, so labels are identified by position.

    Raises:
        InputError: If the file is missing or not from DeepSEA.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        raise InputError(
            f"{path}: expected DeepSEA's feature names, a line `cell|factor|treatment` for each of its {LABELS} "
            "labels, but cannot read them; `--names FILE` says where they are."
        ) from None
    # Some copies number their lines.
    names = [line.split("\t")[-1].strip() for line in lines]
    found = [
        {"position": i, "name": name}
        for i, name in enumerate(names)
        if len(parts := name.split("|")) > 1 and HISTONE.match(parts[1])
    ]
    if len(names) != LABELS or len(found) != HISTONES:
        raise InputError(
            f"{path}: must name {LABELS} labels, {HISTONES} of them histone marks, but names {len(names)} and "
            f"{len(found)}."
        )
    return found


class _Split:
    """The two arrays of one split, their shapes checked."""

    def __init__(self, name: str, folder: Path, scratch: Path, stack: ExitStack) -> None:
        self.name, stem = name, FILES[name]
        path = folder / f"{stem}.mat"
        if not path.is_file():
            raise InputError(f"{path}: missing; DeepSEA's {name} split is needed.")
        self.x = stack.enter_context(SampleArray(path, f"{stem}xdata", scratch))
        self.y = stack.enter_context(SampleArray(path, f"{stem}data", scratch))
        self.size, self.stamp = path.stat().st_size, path.stat().st_mtime_ns
        n = self.x.shape[-1]
        problems = [
            f"{path}: `{array.variable}` must be samples x {' x '.join(map(str, shape))}, but is "
            f"{' x '.join(map(str, reversed(array.shape)))}."
            for array, shape in ((self.x, (4, LENGTH)), (self.y, (LABELS,)))
            if array.shape[:-1] != tuple(reversed(shape)) or not array.shape[-1]
        ]
        if not problems and self.y.shape[-1] != n:
            problems.append(
                f"{path}: must have as many labels as sequences, but has {self.y.shape[-1]:,} and {n:,}."
            )
        if problems:
            raise InputError(problems)
        self.rows = n
        chunk, size = self.x.chunk, self.x.dtype.itemsize
        fitting = max(1, BLOCK // size)
        self.block = chunk * max(1, fitting // chunk) if chunk <= WIDEST // size else fitting
        self.shard = self.block * max(1, SHARD // self.block)

    def one_hot(self, start: int, stop: int) -> NDArray[np.uint8]:
        return _small(self.x, self.x.read(start, stop), start, stop)

    def labels(self, start: int, stop: int, positions: Sequence[int]) -> NDArray[np.uint8]:
        """0 and 1, `[labels, samples]`."""
        first = min(positions)
        read = self.y.read(start, stop, first, max(positions) + 1)
        bits = _small(self.y, read[np.asarray(positions) - first], start, stop)
        if bits.max(initial=0) > 1:
            raise InputError(f"{self.y.path}: `{self.y.variable}` must hold 0 and 1 only.")
        return bits


def _small(array: SampleArray, block: NDArray[Any], start: int, stop: int) -> NDArray[np.uint8]:
    """A block as bytes, which is what the published files hold."""
    if block.dtype == np.uint8:
        return block
    small = block.astype(np.uint8)
    if not np.array_equal(small, block):
        raise InputError(
            f"{array.path}: `{array.variable}` must hold 0 and 1 only (samples {start:,} to {stop:,})."
        )
    return small


def convert(
    source: Path,
    out: Path,
    *,
    names: Path | None = None,
    order: str | None = None,
    progress: Progress | None = None,
) -> Converted:
    """Convert DeepSEA's files in `source` to `out/deepsea/histone`, unless they are there already.

    An interrupted conversion continues with the first missing shard.

    Args:
        names: The feature names; `source/predictor.names` when `None`.
        order: Base of each channel; `None` for `AGCT`, which is then verified.
        progress: Called with the progress.

    Raises:
        InputError: with every problem of the files; nothing is left on disk then.
    """
    if order is not None and sorted(order) != sorted(LETTERS):
        raise InputError(f"`--base-order` must be an order of A, C, G and T, but got {order!r}.")
    if not source.is_dir():
        raise InputError(
            f"`--source` must be the folder of train.mat, valid.mat and test.mat, but got {source}."
        )
    folder = out / TASK
    partial = folder.with_name(f".{folder.name}.partial")
    existing = next(path for path in (partial, *partial.parents) if path.exists())
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"`--out` must be a writable folder, but got {out} ({error.strerror}).") from None
    try:
        with ExitStack() as stack:
            problems: list[str] = []
            splits = list(_opened(source, partial, stack, problems))
            labels = _labels(names or source / "predictor.names", problems)
            if not problems and order is None:
                problems += _order_problems(splits)
            if problems:
                raise InputError(problems)
            plan = {
                "format": FORMAT,
                "order": order or ORDER,
                "labels": labels,
                "sources": {s.name: [s.size, s.stamp, s.rows, s.shard] for s in splits},
            }
            if _read(folder / META).get("plan") == plan:
                shutil.rmtree(partial)
                return _converted(folder)
            _space_for(splits, partial)
            _keep_only(plan, partial)
            about = {split.name: _write(split, partial, plan, progress) for split in splits}
    except InputError:
        _remove(partial, existing)
        raise
    except OSError as error:
        raise InputError(f"{partial}: cannot be written ({error.strerror or error}).") from None
    return _finish(folder, partial, plan, about)


def _opened(source: Path, scratch: Path, stack: ExitStack, problems: list[str]) -> Iterator[_Split]:
    for name in FILES:
        try:
            yield _Split(name, source, scratch, stack)
        except InputError as error:
            problems += error.problems


def _labels(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    try:
        return histone_labels(path)
    except InputError as error:
        problems += error.problems
        return []


def _order_problems(splits: Sequence[_Split]) -> list[str]:
    """Evidence against the channel order A, G, C, T: in human DNA, CG is much rarer than GC."""
    problems = []
    for split in splits:
        x = split.one_hot(0, min(PROBE, split.rows)).astype(bool)
        g, c = x[:, ORDER.index("G")], x[:, ORDER.index("C")]
        cg, gc = int((c[:-1] & g[1:]).sum()), int((g[:-1] & c[1:]).sum())
        if cg + gc > 2_000 and cg > 1.3 * gc:
            problems.append(
                f"{split.x.path}: the channels seem not to be {ORDER}: read so, C is followed by G more often than "
                f"G by C ({cg:,} to {gc:,}), unlike in human DNA; give the order with `--base-order`, "
                "probably ACGT."
            )
    return problems


def _space_for(splits: Sequence[_Split], folder: Path) -> None:
    needed = sum(split.rows for split in splits) * (LENGTH // 4 + HISTONES // 8 + 8)
    held = sum(path.stat().st_size for path in folder.glob("*.arrow"))
    free = shutil.disk_usage(folder).free
    if needed - held > free:
        raise InputError(
            f"`--out` must have {(needed - held) / 1e9:.2f} GB free, but {folder.parent} has {free / 1e9:.2f} GB."
        )


def _keep_only(plan: dict[str, Any], partial: Path) -> None:
    """Delete shards of another conversion."""
    if _read(partial / "plan.json") != plan:
        for path in partial.iterdir():
            path.unlink()
        write_whole(partial / "plan.json", json.dumps(plan))


def _read(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _write(split: _Split, folder: Path, plan: dict[str, Any], progress: Progress | None) -> dict[str, Any]:
    """Write the missing shards of a split; returns its entry in `meta.json`."""
    shards = []
    for number, start in enumerate(range(0, split.rows, split.shard)):
        stop = min(start + split.shard, split.rows)
        path = folder / f"{split.name}-{number:05d}.arrow"
        note = path.with_suffix(".json")
        about = _read(note)
        if not about or not path.exists():
            about = _write_one(split, path, start, stop, plan)
            write_whole(note, json.dumps(about))
        shards.append(about)
        if progress is not None:
            progress(split.name, stop, split.rows)
    return {
        "rows": split.rows,
        "positives": np.sum([shard.pop("positives") for shard in shards], axis=0).tolist(),
        "unknown": sum(shard.pop("unknown") for shard in shards),
        "shards": shards,
    }


def _write_one(split: _Split, path: Path, start: int, stop: int, plan: dict[str, Any]) -> dict[str, Any]:
    positions = [label["position"] for label in plan["labels"]]
    bases = np.empty((stop - start, LENGTH // 4), dtype=np.uint8)
    bits = np.empty((stop - start, -(-HISTONES // 8)), dtype=np.uint8)
    rows, unknown = [], []
    positives = np.zeros(HISTONES, dtype=np.int64)
    for at in range(start, stop, split.block):
        end = min(at + split.block, stop)
        try:
            packed, row, position = pack(split.one_hot(at, end), plan["order"])
        except ValueError as error:
            raise InputError(
                f"{split.x.path}: `{split.x.variable}`, samples {at:,} to {end:,}: {error}."
            ) from None
        bases[at - start : end - start] = packed
        rows.append(row + (at - start))
        unknown.append(position)
        labels = split.labels(at, end, positions)
        bits[at - start : end - start] = np.packbits(labels, axis=0).T
        positives += labels.sum(axis=1, dtype=np.int64)
    digest = write_shard(path, bases, np.concatenate(rows), np.concatenate(unknown), bits)
    return {
        "file": path.name,
        "rows": stop - start,
        "sha256": digest,
        "positives": positives.tolist(),
        "unknown": sum(map(len, unknown)),
    }


def _finish(folder: Path, partial: Path, plan: dict[str, Any], about: dict[str, Any]) -> Converted:
    """Determine the strands of each split, write `meta.json`, and rename the folder."""
    meta = {"format": FORMAT, "task": TASK, "length": LENGTH, "labels": plan["labels"], "plan": plan}
    meta["splits"] = {name: {**split, "strands": "forward"} for name, split in about.items()}
    write_whole(partial / META, json.dumps(meta))
    for name, split in meta["splits"].items():
        split["strands"] = "both" if _is_mirrored(PackedSplit(partial, name)) else "forward"
    write_whole(partial / META, json.dumps(meta))
    for note in (*partial.glob("*-[0-9]*.json"), partial / "plan.json"):
        note.unlink()
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)
    return _converted(folder)


def _is_mirrored(split: PackedSplit) -> bool:
    """Whether the second half of the rows is the reverse complement of the first half, as in DeepSEA's files."""
    half, odd = divmod(len(split), 2)
    if odd or not half:
        return False
    rows = np.unique(np.linspace(0, half - 1, PROBE).astype(np.int64))
    first, second = texts(split.letters(rows)), texts(split.letters(rows + half))
    return reverse_complement(first) == second and np.array_equal(
        split.labels(rows), split.labels(rows + half)
    )


def _converted(folder: Path) -> Converted:
    splits = _read(folder / META)["splits"]
    return Converted(
        folder=folder,
        rows={name: split["rows"] for name, split in splits.items()},
        strands={name: split["strands"] for name, split in splits.items()},
        unknown={name: split["unknown"] for name, split in splits.items()},
        bytes=sum(path.stat().st_size for path in folder.glob("*.arrow")),
    )


def _remove(folder: Path, existing: Path) -> None:
    """Remove a folder and those of its parents that were created for it."""
    shutil.rmtree(folder, ignore_errors=True)
    for parent in folder.parents:
        if parent in (existing, *existing.parents) or any(parent.iterdir()):
            return
        parent.rmdir()
