"""Predictions of an adapter for a file of sequences of any size, in constant memory."""

import contextlib
import csv
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.markup import escape

from harness.core.errors import InputError
from harness.core.wording import words
from harness.inference.read_progress import ReadProgress
from harness.inference.sequences import SequenceFile, SequenceRecord, open_sequences
from harness.inference.tables import SUFFIXES, Columns, OutputColumns, open_table
from lingo.predict import Encoded, Predictor
from lingo.trial import Frozen

if TYPE_CHECKING:
    from lingo.features import Embedder

OnError = Literal["refuse", "skip"]

WINDOW = 4096
"""Maximum number of sequences sorted by length and predicted together."""

WINDOW_LETTERS = 4_000_000
"""Maximum number of their letters."""

SHOWN = 5
"""Maximum number of invalid records shown; further ones are counted."""


@dataclass(frozen=True, kw_only=True)
class PredictionCounts:
    """Result of a prediction run.

    Attributes:
        written, skipped: Records.
        cut: Sequences that were longer than the model's input and lost bases at their end.
        odd: Predictions that are not finite numbers.
        letters: How letters were read that are not A, C, G, T and N, as in training.
    """

    written: int = 0
    skipped: int = 0
    cut: int = 0
    odd: int = 0
    letters: str = ""


def predict_file(
    adapter: Path,
    source: Path,
    output: Path,
    console: Console,
    *,
    backbone: str | None = None,
    batch_size: int | None = None,
    columns: str = "",
    genome: str = "",
    on_error: OnError = "refuse",
    device: str = "auto",
    frozen: Frozen | None = None,
) -> PredictionCounts:
    """Predict every sequence of a file; the output is written atomically.

    Args:
        adapter: Exported adapter.
        source: Any table, see `harness.data.table_files`.
        columns, genome: Column roles and the genome of places, see `open_sequences`.
        output: `.csv`, `.parquet` or `.jsonl`; an existing file is replaced.
        console: Output of progress and notes.
        backbone: Location of the adapter's backbone; `None` for its location in training.
        batch_size: Sequences per batch; `None` for as many as have `lingo.predict.BATCH_TOKENS` tokens.
        on_error: `refuse` reads the whole file first and predicts nothing if a record is invalid; `skip` skips
            invalid records and lists them in `<output>.skipped.csv`.
        device: `cpu`, `cuda`, `cuda:1` …, or `auto` for a GPU if available.
        frozen: Number type of the backbone's weights; `None` for that of training.

    Raises:
        InputError: With all problems of adapter, backbone, input, output and options.
    """
    problems: list[str] = []
    sequences = open_files(source, output, columns, genome, batch_size, problems)
    predictor = _predictor(adapter, backbone, device, frozen, problems) if not problems else None
    if predictor is None or sequences is None:
        raise InputError(problems)
    if sequences.pairs != (predictor.facts.pair is not None):
        needs, given = (
            ("pairs of sequences", "single ones") if predictor.facts.pair else ("single sequences", "pairs")
        )
        raise InputError(
            f"`--input` must hold {needs}, on which {predictor.facts.task} was trained, but {source} has {given}; "
            "`--columns` says which columns are sequences."
        )
    _say_what(predictor, console)
    layout = OutputColumns.of(predictor, named=sequences.named)
    return write_checked(predictor, layout, sequences, source, output, console, batch_size, on_error)


def open_files(
    source: Path,
    output: Path,
    columns: str,
    genome: str,
    batch_size: int | None,
    problems: list[str],
) -> SequenceFile | None:
    """The input, `None` where it cannot be read; `problems` gets a line for all that is wrong with both files and the
    size of batches."""
    sequences = None
    try:
        sequences = open_sequences(source, columns, genome)
    except InputError as error:
        problems += error.problems
    _check_output(source, output, problems)
    if batch_size is not None and batch_size < 1:
        problems.append(f"`--batch-size` must be at least 1, but got {batch_size}.")
    return sequences


def write_checked(
    predictor: "Predictor | Embedder",
    layout: Columns,
    sequences: SequenceFile,
    source: Path,
    output: Path,
    console: Console,
    batch_size: int | None,
    on_error: OnError,
) -> PredictionCounts:
    """Say how the input is read, check all of its records unless invalid ones are skipped, and write the outputs.

    Raises:
        InputError: With the invalid records, or if the output cannot be written.
    """
    for note in sequences.notes:
        console.print(f"{escape(source.name)}: {escape(note)}.", soft_wrap=True)
    if on_error == "refuse":
        _check_records(source, sequences, console)
    try:
        return _write_outputs(predictor, layout, sequences, output, console, batch_size)
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror or error}).") from None


def _check_output(source: Path, output: Path, problems: list[str]) -> None:
    """Add a line to `problems` for each reason why `output` cannot be written."""
    if output.suffix not in SUFFIXES:
        problems.append(f"`--output` must end with {', '.join(SUFFIXES)}, but got {output.name}.")
    if output.is_dir():
        problems.append(f"`--output` must be a file, but {output} is a folder.")
    elif output.exists() and source.exists() and output.samefile(source):
        problems.append(f"`--output` must be different from `--input`, but both are {output}.")
    elif not output.absolute().parent.is_dir():
        problems.append(
            f"`--output` must be in an existing folder, but {output.absolute().parent} does not exist."
        )
    elif not os.access(output.absolute().parent, os.W_OK):
        problems.append(f"`--output` must be in a writable folder, but {output} is not.")


def _predictor(
    adapter: Path, backbone: str | None, device: str, frozen: Frozen | None, problems: list[str]
) -> Predictor | None:
    from lingo.adapter_folder import AdapterError
    from lingo.checkpoint import BackboneError
    from lingo.predict import open_adapter

    place = device_of(device, problems)
    if place is None:
        return None
    try:
        return open_adapter(adapter, backbone, device=place, frozen=frozen)
    except BackboneError as error:
        problems += [f"`--backbone`: {problem}" for problem in error.problems]
    except AdapterError as error:
        problems.append(f"`--adapter`: {error}")
    return None


def device_of(device: str, problems: list[str]) -> str | None:
    """The device that `--device` means; `None`, and a line in `problems`, where it cannot be used."""
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        problems.append(
            f"`--device` must be cpu, cuda or auto, but {device!r} cannot be used here ({words(error)})."
        )
        return None
    return device


def _say_what(predictor: Predictor, console: Console) -> None:
    facts = predictor.facts
    outputs = "values" if facts.kind == "regression" else "probabilities"
    outputs = (
        "a value" if (facts.kind, facts.num_labels) == ("regression", 1) else f"{facts.num_labels} {outputs}"
    )
    strands = ", mean of both strands" if facts.both_strands else ""
    console.print(
        f"{escape(facts.task)}: {outputs} for each sequence{strands}, on {predictor.device}.", soft_wrap=True
    )


def _check_records(source: Path, sequences: SequenceFile, console: Console) -> None:
    """Read the whole file. Raises `InputError` with its invalid records."""
    shown: list[str] = []
    bad = 0
    with ReadProgress(console, "checking", sequences) as reading:
        for number, record in enumerate(sequences.records(), 1):
            if record.problem:
                bad += 1
                shown += [_line(source, record)] if bad <= SHOWN else []
            if number % WINDOW == 0:
                reading.seen(number)
    if bad > SHOWN:
        shown.append(
            f"{source}: {bad - SHOWN:,} more invalid records; `--on-error skip` skips invalid records."
        )
    elif bad:
        shown[-1] += " `--on-error skip` skips invalid records."
    if bad:
        raise InputError(shown)


def _line(source: Path, record: SequenceRecord) -> str:
    name = f" ({record.name})" if record.name else ""
    return f"{source}, {record.place}{name}: {record.problem}"


@dataclass(frozen=True, eq=False)
class _Window:
    """A window of records: valid ones, tokenised, with their numbers in the file; and invalid ones."""

    numbers: Sequence[int]
    names: Sequence[str]
    encoded: Encoded | None
    bad: Sequence[SequenceRecord]
    done: int

    @property
    def size(self) -> int:
        """Number of records, valid and invalid."""
        return len(self.numbers) + len(self.bad)


def _write_outputs(
    predictor: "Predictor | Embedder",
    layout: Columns,
    sequences: SequenceFile,
    output: Path,
    console: Console,
    batch_size: int | None,
) -> PredictionCounts:
    """Compute and write the outputs of every valid record."""
    skipped = output.with_name(f"{output.name}.skipped.csv")
    written = bad = cut = odd = seen = 0
    with contextlib.ExitStack() as stack:
        table = stack.enter_context(open_table(output, layout))
        rejects = stack.enter_context(_Rejects(skipped))
        reading = stack.enter_context(ReadProgress(console, "predicting", sequences))
        at = 0
        for window in _ahead(_windows(predictor, sequences)):
            if window.encoded is not None:
                progress = partial(_tell, reading, seen, at, window)
                logits = _compute(predictor, window.encoded, batch_size, progress)
                odd += table.write(window.numbers, window.names, predictor.probabilities(logits))
                cut += window.encoded.cut
                written += len(window.numbers)
            rejects.write(window.bad)
            bad += len(window.bad)
            seen, at = seen + window.size, window.done
            reading.seen(seen, at=at)
        table.close()
        rejects.close()
    spelt = sequences.letters.note(predictor.case)
    return PredictionCounts(written=written, skipped=bad, cut=cut, odd=odd, letters=spelt)


def _tell(reading: ReadProgress, seen: int, at: int, window: "_Window", share: float) -> None:
    """Progress within a window, which may take minutes with a large model on a CPU."""
    reading.seen(seen + int(window.size * share), at=at + int((window.done - at) * share))


def _compute(
    predictor: "Predictor | Embedder",
    encoded: Encoded,
    batch_size: int | None,
    progress: Callable[[float], None],
) -> Any:
    from lingo.memory import out_of_memory

    try:
        return predictor.compute(encoded, batch_size=batch_size, progress=progress)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        given = "the default" if batch_size is None else batch_size
        raise InputError(
            f"`--batch-size` must be small enough for the memory of {predictor.device}, but got {given}; use a "
            "smaller one, such as 8."
        ) from None


def _windows(predictor: "Predictor | Embedder", sequences: SequenceFile) -> Iterator[_Window]:
    """The file in windows large enough for sorting by length and small enough for memory."""
    good: list[tuple[int, SequenceRecord]] = []
    bad: list[SequenceRecord] = []
    letters = 0
    for number, record in enumerate(sequences.records(), 1):
        if record.problem:
            bad.append(record)
        else:
            good.append((number, record))
            letters += len(record.sequence)
        if len(good) + len(bad) >= WINDOW or letters >= WINDOW_LETTERS:
            yield _encoded(predictor, good, bad, sequences.done)
            good, bad, letters = [], [], 0
    if good or bad:
        yield _encoded(predictor, good, bad, sequences.done)


def _encoded(
    predictor: "Predictor | Embedder",
    good: list[tuple[int, SequenceRecord]],
    bad: list[SequenceRecord],
    done: int,
) -> _Window:
    numbers, names = [number for number, _ in good], [record.name for _, record in good]
    try:
        encoded = predictor.encode([record.sequence for _, record in good]) if good else None
    except ValueError as error:
        raise InputError(f"`--adapter`: {error}") from None
    return _Window(numbers, names, encoded, bad, done)


def _ahead(windows: Iterator[_Window]) -> Iterator[_Window]:
    """The windows; the next one is read and tokenised in a thread while the caller processes one."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read") as threads:
        waiting = threads.submit(next, windows, None)
        while (window := waiting.result()) is not None:
            waiting = threads.submit(next, windows, None)
            yield window


class _Rejects:
    """The list of skipped records, written like the output, if there are any."""

    def __init__(self, path: Path) -> None:
        self.path, self._temporary = path, path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._file: Any = None

    def __enter__(self) -> "_Rejects":
        return self

    def write(self, records: Sequence[SequenceRecord]) -> None:
        """Add some records."""
        if records and self._file is None:
            self._file = self._temporary.open("w", encoding="utf-8", newline="")
            csv.writer(self._file).writerow(["place", "id", "problem"])
        for record in records:
            csv.writer(self._file).writerow([record.place, record.name, record.problem])

    def close(self) -> None:
        """Move the list into place, and remove an outdated one of an earlier run."""
        if self._file is None:
            self.path.unlink(missing_ok=True)
        else:
            self._file.close()
            self._temporary.replace(self.path)

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        self._temporary.unlink(missing_ok=True)
