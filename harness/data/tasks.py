"""The built-in tasks: one row for each dataset, the suites, and accepted names.

28 datasets are those of the Genome Understanding Evaluation (GUE, arXiv:2306.15006), one is DeepSEA's. Row counts are
as published; a count on which published sources disagree is `None` and is not checked.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.data.variants import PUBLISHED, Variant, parted_variant
from lingo.data import Kind

SPLITS = ("train", "dev", "test")

Strands = Literal["train", "test", "both", "none"]
"""Which splits use both strands: `train` adds the reverse complement of each training row, `test`
averages predictions over both strands when dev and test are measured, `both` does both."""

Counts = tuple[int | None, int | None, int | None]


DEFAULT_METRICS: Mapping[Kind, str] = {
    "classification": "mcc",
    "multilabel": "auroc",
    "regression": "pearson",
}
"""Default metric that selects trials, by kind of task."""


@dataclass(frozen=True, kw_only=True)
class TaskRow:
    """One dataset.

    Attributes:
        name: Official folder below the data folder: `EMP/H3`.
        family: Group in tables and search spaces, `EMP`, `prom_300`, …
        num_labels: Number of classes C; labels are 0 to C-1.
        length: Nominal length of a sequence in base pairs; single rows may be shorter.
        domain: Domain text of the language prefix (paper section 4.3.1).
        rows: Published number of rows of train, dev and test; `None` if uncertain.
        kind: What is predicted, as in `lingo.data.TaskData`.
        metric: Metric of the dev split that selects a trial.
        mirror: Name in the hub's mirror of GUE, `emp_H3`; empty for generated tasks.
        generated: Whether `harness.data.quickstart` makes the data.
        packed: Whether the data has the format of `harness.data.packed`, written by `prepare`.
        source: File or folder of a custom dataset, with reading options after `?`; empty for built-in tasks.
        strands: Which splits use both strands, unless `--reverse-complement` is given.
        variant: How its rows are divided, and how many are drawn from train; a suffix of the name.
    """

    name: str
    family: str
    num_labels: int
    length: int
    domain: str
    rows: Counts = (None, None, None)
    kind: Kind = "classification"
    metric: str = "mcc"
    mirror: str = ""
    generated: bool = False
    packed: bool = False
    source: str = ""
    strands: Strands = "none"
    variant: Variant = PUBLISHED

    @property
    def base(self) -> str:
        """Its name without the variant, as used for folders."""
        return self.name.removesuffix(self.variant.text)

    @property
    def given(self) -> str:
        """Its name for `--tasks`: for a custom dataset the path, with reading options."""
        return f"{self.source}{self.variant.text}" if self.source else self.name

    @property
    def path(self) -> Path:
        """File or folder of a custom dataset."""
        whole = Path(self.source)
        return whole if whole.exists() else Path(self.source.partition("?")[0])

    @property
    def published(self) -> dict[str, int]:
        """Published number of rows of each unchanged split with a known count."""
        if self.variant.way != "published":
            return {}
        own = ("train",) if self.variant.shots is not None else ()
        counts = zip(SPLITS, self.rows, strict=True)
        return {split: rows for split, rows in counts if rows is not None and split not in own}


def _histone_marks() -> Iterator[TaskRow]:
    published: dict[str, Counts] = {
        "H3": (11971, 1497, 1497),
        "H3K4me1": (25341, 3168, 3168),
        "H3K4me2": (24545, 3069, 3069),
        "H3K4me3": (29439, 3680, 3680),
        "H3K9ac": (22224, 2779, 2779),
        "H3K14ac": (None, 3305, 3305),
        "H3K36me3": (27904, 3488, 3488),
        "H3K79me3": (23069, None, 2884),
        "H4": (11679, 1461, 1461),
        "H4ac": (27275, 3410, 3410),
    }
    for mark, rows in published.items():
        yield TaskRow(
            name=f"EMP/{mark}",
            family="EMP",
            num_labels=2,
            length=500,
            domain=f"DNA Yeast Histone {mark}",
            rows=rows,
            mirror=f"emp_{mark}",
        )


def _promoters() -> Iterator[TaskRow]:
    published: dict[str, Counts] = {
        "all": (47356, 5920, 5920),
        "notata": (42452, 5307, 5307),
        "tata": (4904, 613, 613),
    }
    for family, length, domain in (("prom_300", 300, "DNA Promoter"), ("prom_core", 70, "DNA Core Promoter")):
        for part, rows in published.items():
            name = f"{family}_{part}"
            yield TaskRow(
                name=f"prom/{name}",
                family=family,
                num_labels=2,
                length=length,
                domain=domain,
                rows=rows,
                mirror=name,
            )


def _binding_sites() -> Iterator[TaskRow]:
    human: tuple[Counts, ...] = (
        (32378, 1000, 1000),
        (30672, 1000, 1000),
        (19000, 1000, 1000),
        (27294, 1000, 1000),
        (19000, 1000, 1000),
    )
    mouse: tuple[Counts, ...] = (
        (6478, 810, 810),
        (53952, 6745, 6745),
        (2620, 328, 328),
        (1904, 239, 239),
        (15064, 1883, 1883),
    )
    for family, species, mirror, published in (
        ("tf", "Human", "human_tf", human),
        ("mouse", "Mouse", "mouse", mouse),
    ):
        for number, rows in enumerate(published):
            yield TaskRow(
                name=f"{family}/{number}",
                family=family,
                num_labels=2,
                length=101,
                domain=f"DNA {species} Transcription Factor Binding Site",
                rows=rows,
                mirror=f"{mirror}_{number}",
            )


def _others() -> Iterator[TaskRow]:
    yield TaskRow(
        name="splice/reconstructed",
        family="splice",
        num_labels=3,
        length=400,
        domain="DNA Splice Site",
        rows=(36496, 4562, 4562),
        mirror="splice_reconstructed",
    )
    yield TaskRow(
        name="virus/covid",
        family="virus",
        num_labels=9,
        length=1000,
        domain="SARS-CoV-2 Genome Variant",
        mirror="virus_covid",
    )


def _deepsea() -> Iterator[TaskRow]:
    # The published files have both strands of 2,200,000, 4,000 and 227,512 sequences.
    yield TaskRow(
        name="deepsea/histone",
        family="deepsea",
        num_labels=104,
        length=1000,
        domain="DNA Human Histone",
        rows=(2_200_000, 4_000, 227_512),
        kind="multilabel",
        metric="auroc",
        packed=True,
        strands="both",
    )


def _generated() -> Iterator[TaskRow]:
    for name, domain in (("promoter", "DNA Promoter"), ("motif_pair", "DNA Motif Pair")):
        yield TaskRow(
            name=f"quickstart/{name}",
            family="quickstart",
            num_labels=2,
            length=60,
            domain=domain,
            generated=True,
        )


TASKS: dict[str, TaskRow] = {
    row.name: row
    for rows in (_histone_marks, _promoters, _binding_sites, _others, _deepsea, _generated)
    for row in rows()
}

SUITES: dict[str, tuple[str, ...]] = {
    "quickstart": tuple(name for name, row in TASKS.items() if row.generated),
    "paper": tuple(name for name, row in TASKS.items() if row.family in ("EMP", "prom_300", "deepsea")),
    "paper-gue": tuple(name for name, row in TASKS.items() if row.family in ("EMP", "prom_300")),
    "gue": tuple(name for name, row in TASKS.items() if not row.generated and not row.packed),
    "gue-deepsea": tuple(name for name, row in TASKS.items() if not row.generated),
}
"""Tasks of each suite. `paper` has the paper's 14 tasks (table S0), `paper-gue` those of them that the hub has,
`gue` the 28 of GUE, `gue-deepsea` these and DeepSEA."""

FORMER = {"gue": "gue-deepsea"}
"""Suites whose tasks have changed since earlier versions, and the present name of those tasks."""


def alias(name: str) -> str:
    return name.strip().strip("/").casefold().replace("/", "_").replace("-", "_")


def _aliases() -> dict[str, TaskRow]:
    known: dict[str, TaskRow] = {}
    for row in TASKS.values():
        for name in {row.name, row.mirror, f"GUE/{row.name}", row.name.rsplit("/", 1)[-1]} - {""}:
            if not name.isdigit():
                known.setdefault(alias(name), row)
    return known


ALIASES = _aliases()


def family_of(task: str) -> str:
    """Family of a task by its name, with or without a variant; for a custom dataset the first part of the name."""
    base = parted_variant(task)[0]
    return TASKS[base].family if base in TASKS else base.split("/")[0]


def strands_of(row: TaskRow, asked: Strands | None) -> Strands:
    """Which splits of a task use both strands: by `--reverse-complement`, or by the task's default."""
    return row.strands if asked is None else asked
