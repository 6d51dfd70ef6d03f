"""Parquet and Arrow files as rows of a table."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from harness.core.errors import InputError
from harness.core.wording import words
from harness.data.table_batches import BATCH, TableBatch, as_texts

COLUMNAR = (b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")


class ColumnFile:
    """A Parquet file, an Arrow file, or an Arrow stream, such as the `datasets` library keeps."""

    unit, head = "row", ""

    def __init__(self, path: Path, start: bytes) -> None:
        self.path, self.done = path, 0
        self.notes: list[str] = []
        self._open = pq.ParquetFile if start.startswith(b"PAR1") else pa.ipc.open_file
        self._open = pa.ipc.open_stream if start.startswith(b"\xff") else self._open
        self._kind = "Parquet" if self._open is pq.ParquetFile else "Arrow"
        try:
            if self._open is pq.ParquetFile:
                with pq.ParquetFile(path) as file:
                    self.schema, self.total = file.schema_arrow, max(1, file.metadata.num_rows)
            else:
                with pa.memory_map(str(path)) as source, self._open(source) as file:
                    self.schema, self.total = file.schema, max(1, path.stat().st_size)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{path}: is not readable as {self._kind} ({words(error, 120)}).") from None
        self.names: Sequence[str] = list(self.schema.names)

    def batches(self, columns: Sequence[int]) -> Iterator[TableBatch]:
        """As `TableFile.batches`."""
        number = 0
        self.done = 0
        try:
            for batch in self._batches(columns):
                for at in range(0, batch.num_rows, BATCH):
                    part = batch.slice(at, BATCH)
                    places = range(number + 1, number + 1 + part.num_rows)
                    number += part.num_rows
                    self.done = number if self._kind == "Parquet" else self.done
                    yield TableBatch(places, [as_texts(column) for column in part.columns])
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{self.path}: is damaged ({words(error)}).") from None
        self.done = self.total

    def _batches(self, columns: Sequence[int]) -> Iterator[pa.RecordBatch]:
        if self._kind == "Parquet":
            # Without reading ahead, memory does not grow with the size of a row group.
            with pq.ParquetFile(self.path, buffer_size=1 << 20, pre_buffer=False) as file:
                names = [self.names[i] for i in columns]
                for batch in file.iter_batches(BATCH, columns=names, use_threads=False):
                    yield batch.select(names)
            return
        with pa.memory_map(str(self.path)) as source, self._open(source) as file:
            whole = (
                file
                if self._open is pa.ipc.open_stream
                else map(file.get_batch, range(file.num_record_batches))
            )
            for batch in whole:
                yield batch.select(list(columns))
                self.done = source.tell() if self._open is pa.ipc.open_stream else self.done
