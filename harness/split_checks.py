"""Splits from which nothing could be learnt or chosen: told before anything is trained."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import InputError
from harness.sequence_files import Rows
from harness.tasks import TaskRow

LOOKED_AT = 2000
"""Training rows whose tokens are compared."""


def refuse_constant_dev(row: TaskRow, splits: Mapping[str, Rows], limit: int | None = None) -> None:
    """Refuse a dev split on which the task's metric is undefined, so that no trial could be chosen by it.

    Raises:
        InputError: when all dev rows have the same label (of several labels: each is the same in all rows).
    """
    labels = splits["dev"].labels
    if (labels.min(axis=0) != labels.max(axis=0)).any():
        return
    cure = f"; use a larger `--limit` than {limit}" if limit is not None else ""
    held = "one row" if len(labels) == 1 else f"{len(labels):,} rows, all with the same"
    what = "target" if row.kind == "regression" else "label"
    raise InputError(
        f"{row.name}: the dev split must have rows of different {what}s, since {row.metric} chooses the trials by "
        f"them, but it has {held}{'' if len(labels) == 1 else f' {what}'}{cure}."
    )


def refuse_same_tokens(
    row: TaskRow, rows: Rows, ids: NDArray[np.integer[Any]], offsets: NDArray[np.int64]
) -> None:
    """Refuse tokens that do not tell sequences apart, as where every sequence is one unknown word.

    Raises:
        InputError: when more than half of the different sequences among the first rows have the tokens of another.
    """
    count = min(LOOKED_AT, len(rows.labels))
    different = len(set(rows.sequences[:count]))
    tokens = len({ids[offsets[i] : offsets[i + 1]].tobytes() for i in range(count)})
    if 2 * tokens < different:
        raise InputError(
            f"{row.name}: the backbone's tokenizer must tell sequences apart, but {different:,} different ones become "
            f"{tokens:,} different rows of tokens; use `--tokenization one_hot` or `kmer`, a larger `--max-length`, "
            "or another backbone."
        )
