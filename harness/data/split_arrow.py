"""A tokenised split as an Arrow file, written atomically and opened memory-mapped."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lingo.data import Split


def write_split(
    path: Path, ids: NDArray[np.integer], offsets: NDArray[np.int64], labels: NDArray[Any]
) -> int:
    """Write the concatenated token ids of all rows `[tokens]`, their offsets `[n + 1]` and labels `[n, …]`.

    Returns:
        Size of the file in bytes; it is on disk then.
    """
    flat = pa.array(np.ascontiguousarray(labels).reshape(-1))
    column = flat if labels.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, labels.shape[1])
    columns = [pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(ids)), column]
    batch = pa.record_batch(columns, names=["ids", "label"])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path.stat().st_size


def open_split(path: Path) -> Split:
    """Open such a file. Raises OSError or ValueError if it is invalid."""
    batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    column, labels = batch.column("ids"), batch.column("label")
    if pa.types.is_fixed_size_list(labels.type):
        shape = (len(labels), labels.type.list_size)
        values = labels.values.to_numpy(zero_copy_only=True).reshape(shape)
    else:
        values = labels.to_numpy(zero_copy_only=True)
    return Split(
        ids=column.values.to_numpy(zero_copy_only=True),
        offsets=column.offsets.to_numpy(zero_copy_only=True),
        labels=values,
    )
