"""The paper's published numbers (arXiv:2402.08075), from `harness/report/published` or another folder."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from harness.core.errors import InputError

SCORES = ("table_s2_histone_yeast_mcc.csv", "table_s3_promoter_human_auc.csv")
FILES = {
    **dict.fromkeys(SCORES, ("backbone", "method", "trainable_params", "dataset", "metric", "value")),
    "table_1_tokenization_auc.csv": ("backbone", "tokenization", "dataset", "auc"),
    "table_s1_hyperparameters.csv": ("dataset", "avg_b0", "avg_bT", "delta_T", "beta1", "beta2", "p"),
    "claims.csv": ("id", "section", "claim", "value", "unit"),
}
"""File names and the columns that are read."""

Rows = Sequence[Mapping[str, str]]


@dataclass(frozen=True, kw_only=True)
class Published:
    """Published numbers.

    Attributes:
        scores: By (backbone, method, dataset), the paper's names, tables S2 and S3.
        parameters: Trained parameters by (backbone, method), as printed (`6.2M`).
        tokenizations: Table 1: AUC by (backbone, `bbpe` or `one_hot`, dataset).
        hyperparameters: Table S1: a row by dataset.
        claims: Rows of claims.csv.
    """

    scores: Mapping[tuple[str, str, str], float] = field(default_factory=dict)
    parameters: Mapping[tuple[str, str], str] = field(default_factory=dict)
    tokenizations: Mapping[tuple[str, str, str], float] = field(default_factory=dict)
    hyperparameters: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    claims: Rows = ()

    @property
    def methods(self) -> set[tuple[str, str]]:
        """Pairs of backbone and method that have a row."""
        return set(self.parameters)


def read_published(folder: Path | None = None) -> Published:
    """Read the published numbers; missing files are ignored.

    Raises:
        InputError: With one line for each invalid file.
    """
    problems: list[str] = []
    if folder is not None and not any((folder / name).is_file() for name in FILES):
        raise InputError(
            f"`--published` must be a folder with at least one of {', '.join(FILES)}, but got {folder}."
        )
    rows = {name: _rows(name, folder, problems) for name in FILES}
    try:
        found = _published(rows)
    except ValueError as error:
        problems.append(f"`--published`: {error}.")
    if problems:
        raise InputError(problems)
    return found


def _published(rows: Mapping[str, Rows]) -> Published:
    scores = [row for name in SCORES for row in rows[name]]
    return Published(
        scores={(r["backbone"], r["method"], r["dataset"]): float(r["value"]) for r in scores},
        parameters={(r["backbone"], r["method"]): r["trainable_params"] for r in scores},
        tokenizations={
            (r["backbone"], r["tokenization"], r["dataset"]): float(r["auc"])
            for r in rows["table_1_tokenization_auc.csv"]
        },
        hyperparameters={row["dataset"]: row for row in rows["table_s1_hyperparameters.csv"]},
        claims=rows["claims.csv"],
    )


def _rows(name: str, folder: Path | None, problems: list[str]) -> Rows:
    if folder is None:
        text = resources.files("harness.report").joinpath("published", name).read_text(encoding="utf-8")
    elif not (folder / name).is_file():
        return ()
    else:
        text = (folder / name).read_text(encoding="utf-8")
    reader = csv.DictReader(text.splitlines())
    missing = [column for column in FILES[name] if column not in (reader.fieldnames or ())]
    if missing:
        problems.append(
            f"{folder or 'harness/report/published'}/{name}: must have the columns {', '.join(missing)}."
        )
        return ()
    return list(reader)


def parameter_count(text: str) -> float:
    """`6.2M` is 6,200,000. Raises `ValueError` for anything else than a number with or without M."""
    return float(text.removesuffix("M")) * (1e6 if text.endswith("M") else 1.0)
