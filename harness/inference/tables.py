"""Tables of predictions in CSV, Parquet or JSON lines: written in blocks, and atomically."""

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lingo.predict import Predictor


@dataclass(frozen=True)
class OutputColumns:
    """The columns: `row` (number of the record in the input, from 1), `id` where records have names,
    `prediction` (the most probable class; by thresholds the class, or the labels with `;` between), then `p_<label>`
    for each class or label, or `value`.

    Attributes:
        labels: Name of each output.
        kind: As in `lingo.data.TaskData`.
        named: Whether there is a column `id`.
        thresholds: Probabilities from which on class 1 of two, or each label, is predicted; none for ½.
    """

    labels: tuple[str, ...]
    kind: str
    named: bool
    thresholds: tuple[float, ...] = ()

    @classmethod
    def of(cls, predictor: Predictor, *, named: bool) -> "OutputColumns":
        """Schema of a predictor's outputs."""
        return cls(predictor.labels, predictor.facts.kind, named, predictor.facts.thresholds)

    @property
    def columns(self) -> list[str]:
        """Names of the outputs' columns; labels of one name are numbered."""
        if self.kind == "regression":
            return list(self.labels)
        found: dict[str, None] = {}
        for label in self.labels:
            name, number = f"p_{label}", 2
            while name in found:
                name, number = f"p_{label}.{number}", number + 1
            found[name] = None
        return list(found)

    @property
    def number(self) -> pa.DataType:
        """Type of the outputs; values far from 0 need double precision."""
        return pa.float64() if self.kind == "regression" else pa.float32()

    @property
    def decides(self) -> bool:
        """Whether there is a column `prediction`."""
        return self.kind == "classification" or bool(self.thresholds)

    def _decided(self, row: NDArray[np.float64]) -> str:
        if not self.thresholds:
            return self.labels[int(row.argmax())]
        if self.kind == "classification":
            return self.labels[int(row[1] > self.thresholds[0])]
        each = zip(self.labels, row, self.thresholds, strict=True)
        return ";".join(label for label, chance, least in each if chance > least)

    @property
    def schema(self) -> pa.Schema:
        """Names and types of all columns."""
        fields = [("row", pa.int64())]
        fields += [("id", pa.string())] if self.named else []
        fields += [("prediction", pa.string())] if self.decides else []
        return pa.schema(fields + [(name, self.number) for name in self.columns])

    def batch(self, rows: Sequence[int], names: Sequence[str], values: NDArray[np.float64]) -> pa.RecordBatch:
        """Some rows; `values` is `[n, outputs]`."""
        columns: list[Any] = [pa.array(rows, pa.int64())]
        columns += [pa.array(names, pa.string())] if self.named else []
        if self.decides:
            best = [None if math.isnan(row.max()) else self._decided(row) for row in values]
            columns.append(pa.array(best, pa.string()))
        columns += [
            pa.array(column, self.number) for column in values.astype(self.number.to_pandas_dtype()).T
        ]
        return pa.record_batch(columns, schema=self.schema)


class _Writer(Protocol):
    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Add some rows."""

    def close(self) -> None:
        """End the file."""


class _JsonLines:
    """One JSON object per line; non-finite numbers are null."""

    def __init__(self, sink: IO[bytes], schema: pa.Schema) -> None:
        self._sink, self._digits = sink, 17 if pa.float64() in schema.types else 9

    def write_batch(self, batch: pa.RecordBatch) -> None:
        for row in batch.to_pylist():
            plain = {
                name: None if isinstance(value, float) and not math.isfinite(value) else self._short(value)
                for name, value in row.items()
            }
            self._sink.write(json.dumps(plain, ensure_ascii=False).encode() + b"\n")

    def _short(self, value: Any) -> Any:
        """A number with the digits of its type, also in a list."""
        if isinstance(value, list):
            return [self._short(one) for one in value]
        return float(f"{value:.{self._digits}g}") if isinstance(value, float) else value

    def close(self) -> None:
        pass


def _csv(sink: IO[bytes], schema: pa.Schema) -> _Writer:
    writer: _Writer = pa_csv.CSVWriter(
        sink, schema, write_options=pa_csv.WriteOptions(quoting_style="needed")
    )
    return writer


def _parquet(sink: IO[bytes], schema: pa.Schema) -> _Writer:
    writer: _Writer = pq.ParquetWriter(sink, schema, compression="zstd")
    return writer


SUFFIXES: dict[str, Callable[[IO[bytes], pa.Schema], _Writer]] = {
    ".csv": _csv,
    ".parquet": _parquet,
    ".jsonl": _JsonLines,
}
"""Writers by file extension."""


class Columns(Protocol):
    """What a table's rows are."""

    @property
    def schema(self) -> pa.Schema:
        """Names and types of all columns."""

    def batch(self, rows: Sequence[int], names: Sequence[str], values: NDArray[np.float64]) -> pa.RecordBatch:
        """Some rows; `values` is `[n, outputs]`."""


class PredictionTable:
    """A table being written; the file is created with the first rows."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self._path, self._columns = path, columns
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._open: tuple[IO[bytes], _Writer] | None = None

    def write(self, rows: Sequence[int], names: Sequence[str], values: NDArray[np.float64]) -> int:
        """Add rows; returns the number of rows with a non-finite output."""
        self._file()[1].write_batch(self._columns.batch(rows, names, values))
        return int((~np.isfinite(values)).any(axis=1).sum())

    def close(self) -> None:
        """Finish the file and move it into place."""
        sink, writer = self._file()
        writer.close()
        sink.flush()
        os.fsync(sink.fileno())
        sink.close()
        self._temporary.replace(self._path)

    def drop(self) -> None:
        """Remove a table that was not closed."""
        if self._open is not None:
            with suppress(Exception):  # a writer with a full disk raises again
                self._open[1].close()
            self._open[0].close()
        self._temporary.unlink(missing_ok=True)

    def _file(self) -> tuple[IO[bytes], _Writer]:
        if self._open is None:
            sink = self._temporary.open("wb")
            self._open = sink, SUFFIXES[self._path.suffix](sink, self._columns.schema)
        return self._open


@contextmanager
def open_table(path: Path, columns: Columns) -> Iterator[PredictionTable]:
    """A table under a temporary name, renamed when closed."""
    _sweep(path)
    table = PredictionTable(path, columns)
    try:
        yield table
    finally:
        table.drop()


def _sweep(path: Path) -> None:
    """Remove remains of killed processes for this output."""
    for left in path.absolute().parent.glob(f".{path.name}.*.tmp"):
        with suppress(ValueError, OSError):
            number = int(left.name.removesuffix(".tmp").rsplit(".", 1)[1])
            try:
                os.kill(number, 0)
            except ProcessLookupError:
                left.unlink()
