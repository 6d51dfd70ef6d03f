"""Vectors of a frozen backbone for a file of sequences of any size, in constant memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape

from harness.core.errors import InputError
from harness.inference.predict import OnError, PredictionCounts, open_files, write_checked
from lingo.trial import Frozen

Strands = Literal["one", "both"]


@dataclass(frozen=True)
class VectorLayout:
    """The columns: `row` (number of the record in the input, from 1), `id` where records have names, and `embedding`, a
    list of `width` float32; in CSV one column a number, `e0` and so on."""

    width: int
    named: bool
    flat: bool

    @property
    def schema(self) -> pa.Schema:
        """Names and types of all columns."""
        fields = [("row", pa.int64())]
        fields += [("id", pa.string())] if self.named else []
        if self.flat:
            return pa.schema(fields + [(f"e{number}", pa.float32()) for number in range(self.width)])
        return pa.schema([*fields, ("embedding", pa.list_(pa.float32(), self.width))])

    def batch(self, rows: Sequence[int], names: Sequence[str], values: NDArray[np.float64]) -> pa.RecordBatch:
        """Some rows; `values` is `[n, width]`."""
        columns: list[Any] = [pa.array(rows, pa.int64())]
        columns += [pa.array(names, pa.string())] if self.named else []
        small = np.ascontiguousarray(values, dtype=np.float32)
        if self.flat:
            columns += [pa.array(column) for column in small.T]
        else:
            columns.append(pa.FixedSizeListArray.from_arrays(pa.array(small.reshape(-1)), self.width))
        return pa.record_batch(columns, schema=self.schema)


def embed_file(
    model: str,
    source: Path,
    output: Path,
    console: Console,
    *,
    depth: float = 1.0,
    pooling: str = "auto",
    strands: Strands = "one",
    max_length: int | None = None,
    batch_size: int | None = None,
    columns: str = "",
    genome: str = "",
    on_error: OnError = "refuse",
    device: str = "auto",
    frozen: Frozen | None = None,
) -> PredictionCounts:
    """Write one vector for each sequence of a file, atomically.

    Args:
        model: Known name, hub id or folder of the backbone.
        depth, pooling: See `lingo.features.features`.
        strands: `both` is the mean of the vectors of a sequence and its reverse complement.
        max_length: Most tokens of an input; `None` for the backbone's positions.
        source, output, console, batch_size, columns, genome, on_error, device: As `predict_file` takes them.
        frozen: Number type of the weights; `None` for that of the device.

    Raises:
        InputError: With all problems of backbone, input, output and options.
    """
    problems: list[str] = []
    sequences = open_files(source, output, columns, genome, batch_size, problems)
    if max_length is not None and max_length < 1:
        problems.append(f"`--max-length` must be at least 1, but got {max_length}.")
    if not 0 < depth <= 1:
        problems.append(f"`--depth` must be above 0 and at most 1, but got {depth:g}.")
    embedder = None
    if not problems:
        embedder = _embedder(model, device, frozen, problems, depth, pooling, strands, max_length)
    if embedder is None or sequences is None:
        raise InputError(problems)
    if sequences.pairs:
        raise InputError(
            f"`--input` must hold single sequences, but {source} has pairs; name one with `--columns sequence=`."
        )
    backbone = embedder.backbone
    console.print(
        f"{escape(backbone.name)}: {backbone.hidden_size} numbers for each sequence, on {embedder.device}.",
        soft_wrap=True,
    )
    layout = VectorLayout(backbone.hidden_size, sequences.named, output.suffix == ".csv")
    try:
        return write_checked(embedder, layout, sequences, source, output, console, batch_size, on_error)
    except ValueError as error:
        raise InputError(f"`--models`: {error}") from None


def _embedder(
    model: str,
    device: str,
    frozen: Frozen | None,
    problems: list[str],
    depth: float,
    pooling: Any,
    strands: Strands,
    max_length: int | None,
) -> Any:
    from harness.inference.predict import device_of
    from lingo.checkpoint import BackboneError
    from lingo.features import Embedder
    from lingo.quantized import load_frozen

    place = device_of(device, problems)
    if place is None:
        return None
    try:
        backbone = load_frozen(model, frozen, device=place)
    except BackboneError as error:
        problems += [f"`--models`: {problem}" for problem in error.problems]
        return None
    except ValueError as error:
        problems.append(str(error))
        return None
    return Embedder(backbone, depth, pooling, strands == "both", None, max_length)
