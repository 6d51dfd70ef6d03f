"""Files in the shapes that public reports describe: what is read, and what is said of it."""

from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from harness.core.errors import InputError
from harness.data.labelled_files import Rows
from harness.data.own_data import own_task, read_own

READ = {
    "columns/bed_like_extra.csv": ("classification", 2, (), "left aside: chrom, start, strand"),
    "columns/capitals.csv": ("classification", 2, (), ""),
    "columns/id_seq_label.csv": ("classification", 2, (), ""),
    "columns/label_first.csv": ("classification", 2, (), ""),
    "columns/labels.csv": ("classification", 2, (), "labels in labels"),
    "columns/pandas_index.csv": ("classification", 2, (), "left aside: (no name)"),
    "columns/seq_label.csv": ("classification", 2, (), "sequences are in `seq`"),
    "columns/text_label.csv": ("classification", 2, (), "sequences are in `text`"),
    "csv-dialects/bom.csv": ("classification", 2, (), ""),
    "csv-dialects/cr_only.csv": ("classification", 2, (), "classic Mac line endings"),
    "csv-dialects/crlf.csv": ("classification", 2, (), ""),
    "csv-dialects/data.csv.gz": ("classification", 2, (), ""),
    "csv-dialects/excel_sep_line.csv": ("classification", 2, (), "Excel's `sep=` line"),
    "csv-dialects/quoted.csv": ("classification", 2, (), ""),
    "csv-dialects/semicolon.csv": ("classification", 2, (), "semicolons between its columns"),
    "csv-dialects/trailing_commas.csv": ("classification", 2, (), "left aside: (no name)"),
    "csv-dialects/utf16.csv": ("classification", 2, (), "UTF-16"),
    "hub-layouts/deepstarr_hub": ("regression", 2, ("target_0", "target_1"), "a list of 2 numbers"),
    "hub-layouts/genomic_benchmarks_hub": ("classification", 2, (), "sequences are in `seq`"),
    "hub-layouts/hub_shards": ("classification", 2, (), ""),
    "hub-layouts/multilabel_list": ("multilabel", 4, tuple(f"label_{i}" for i in range(4)), "a list of 4 labels"),
    "hub-layouts/nt_tasks": ("classification", 2, (), ""),
    "hub-layouts/parquet_dict": ("classification", 2, (), ""),
    "labels-as-words/promoters.csv": (
        "classification", 2, ("non_promoter", "promoter"), "classes are numbered: non_promoter → 0, promoter → 1"
    ),
    "mixed-lengths-wordpiece": ("classification", 2, (), ""),
    "multilabel/label_from_1.csv": ("multilabel", 4, tuple(f"label_{i}" for i in range(1, 5)), ""),
    "multilabel/label_n.csv": ("multilabel", 4, tuple(f"label_{i}" for i in range(4)), ""),
    "multilabel/label_n_missing.csv": ("multilabel", 4, tuple(f"label_{i}" for i in range(4)), "1 label is unknown"),
    "multilabel/named_cells.csv": ("multilabel", 4, ("K562", "HepG2", "GM12878", "H1"), "are 4 labels"),
    "multilabel/one_string.csv": ("multilabel", 4, tuple(f"label_{i}" for i in range(4)), "a list of 4 labels"),
    "one-class-test": ("classification", 2, (), ""),
    "regression/expression.csv": ("regression", 1, (), "so it is a regression"),
    "regression/target.csv": ("regression", 1, (), ""),
    "regression/target_0_1.csv": ("regression", 2, ("target_0", "target_1"), ""),
    "regression/target_large.csv": ("regression", 1, (), ""),
    "regression/two_targets_deepstarr.csv": (
        "regression", 2, ("Dev_log2_enrichment", "Hk_log2_enrichment"), "a regression of 2 targets"
    ),
    "tsv-file/data.tsv": ("classification", 2, (), "tabs between its columns"),
    "tsv-file/tabs_named.csv": ("classification", 2, (), "tabs between its columns"),
}  # fmt: skip

REFUSED = {
    "columns/no_header.csv": "line 1: must be a header such as `sequence,label`, but looks like a row",
    "csv-dialects/latin1.csv": "line 302: .*at position 5 \\(a byte that is not UTF-8\\)",
    "regression/label_is_float.csv": "name the column `target`, or say `--columns target=label`",
    "regression/target_nan.csv": "line 7: `target` must be a finite number, but got ''",
}


@pytest.fixture
def cases(shared: Path) -> Path:
    """The folder of cases."""
    if not (shared / "cases").is_dir():
        pytest.skip(f"no {shared / 'cases'}")
    return shared / "cases"


@pytest.mark.parametrize("name", READ)
def test_what_people_bring_is_read_and_said(name: str, cases: Path) -> None:
    kind, outputs, names, note = READ[name]
    row, data = own_task(str(cases / name)), read_own(cases / name)
    assert (row.kind, row.num_labels, data.label_names) == (kind, outputs, names)
    assert note in " ".join(data.notes)
    plain = read_own(cases / "columns/label_first.csv").splits
    if name.split("/")[0] in ("columns", "csv-dialects", "tsv-file", "labels-as-words"):
        assert pairs(data.splits) == pairs(plain)


def pairs(splits: Mapping[str, Rows]) -> list[tuple[str, int]]:
    """Sequences and labels of all splits."""
    found = (zip(rows.sequences, rows.labels.tolist(), strict=True) for rows in splits.values())
    return sorted(chain.from_iterable(found))


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_one_meaning_is_refused_in_one_line(name: str, cases: Path) -> None:
    with pytest.raises(InputError, match=REFUSED[name]) as refused:
        own_task(str(cases / name))
    assert all(len(line) < 400 and "\n" not in line for line in refused.value.problems)


def test_missing_targets_are_left_out_on_request(cases: Path) -> None:
    data = read_own(f"{cases / 'regression/target_nan.csv'}?on_error=skip")
    assert sum(len(rows.labels) for rows in data.splits.values()) == 298
    assert "2 invalid rows are left out" in data.marks["skipped rows"]


def test_an_unknown_label_is_not_0(cases: Path) -> None:
    splits = read_own(cases / "multilabel/label_n_missing.csv").splits.values()
    assert sum(int(np.isnan(rows.labels).sum()) for rows in splits) == 1


def test_reads_that_stand_often_do_not_unbalance_the_splits(cases: Path) -> None:
    data = read_own(cases / "duplicated-reads/amplicon.csv")
    every = sum(len(rows.labels) for rows in data.splits.values())
    assert every == 602
    for split in ("dev", "test"):
        assert abs(len(data.splits[split].labels) / every - 0.1) < 0.02
    assert (
        "dev 10.5%, test 10.6%; 169 rows of sequences that occur too often stay in train"
        in data.marks["cut split"]
    )
    seen = {split: set(rows.sequences) for split, rows in data.splits.items()}
    assert (
        not seen["train"] & seen["dev"]
        and not seen["train"] & seen["test"]
        and not seen["dev"] & seen["test"]
    )
