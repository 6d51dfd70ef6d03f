"""Published suites whose tasks are read as custom datasets: from a local folder in their layout, or from the hub.

The facts are from public text, see `Suite.sources`, and were not compared with the data. `None` is an unknown value,
and `Outside.unverified` names values that no cited page confirms.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import InputError
from harness.data.split_files import split_files
from harness.data.variants import parted_variant

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Outside:
    """A task of a suite.

    Attributes:
        name: Name for `--tasks` and in results: `nt/promoter_all`.
        folders: Its possible folders below a data folder; the first existing one is used.
        hub: Its name for `hub:`; empty if the hub's layout cannot be read directly.
        column: Value of the column `task` if all tasks of a suite are one table; empty if each has its own.
        classes: Published number of classes; the data decides.
        length: Bases of a sequence, or of both sequences of a pair.
        rows: Rows of train, dev and test.
        unverified: Attributes whose values no cited page confirms.
    """

    name: str
    folders: tuple[str, ...]
    hub: str
    column: str = ""
    classes: int | None = None
    length: int | None = None
    rows: tuple[int | None, int | None, int | None] = (None, None, None)
    unverified: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A suite.

    Attributes:
        title: Its published name.
        rows: Its tasks.
        metric: The metric that its authors report.
        licence: According to its dataset card.
        splits: Which splits there are, and how they were made.
        published: Published numbers, with their source.
        sources: Addresses of the pages that were used.
    """

    title: str
    rows: tuple[Outside, ...]
    metric: str
    licence: str
    splits: str
    published: str
    sources: tuple[str, ...]


def _plus() -> Iterator[Outside]:
    for cells in ("GM12878", "HUVEC", "HeLa-S3", "IMR90", "K562", "NHEK"):
        yield _gue(f"EPI_{cells}", classes=2, unverified=("classes",))
    yield _gue("fungi_species_20", classes=20, length=10_000, unverified=("classes", "length"))
    yield _gue("virus_species_40", length=5_000, rows=(4000, 500, 500), unverified=("length", "rows"))
    yield _gue("phage_fragments")


def _gue(mirror: str, **facts: object) -> Outside:
    return Outside(
        name=f"gue-plus/{mirror}",
        folders=(mirror, f"GUE/{mirror}"),
        hub=f"leannmlindsey/GUE/{mirror}",
        **facts,  # type: ignore[arg-type]
    )


NT = "InstaDeepAI/nucleotide_transformer_downstream_tasks_revised"


def _transformer() -> Iterator[Outside]:
    marks = (
        "H2AFZ",
        "H3K27ac",
        "H3K27me3",
        "H3K36me3",
        "H3K4me1",
        "H3K4me2",
        "H3K4me3",
        "H3K9ac",
        "H3K9me3",
        "H4K20me1",
    )
    lengths = dict.fromkeys(marks, 1000) | dict.fromkeys(("enhancers", "enhancers_types"), 400)
    lengths |= dict.fromkeys(("promoter_all", "promoter_no_tata", "promoter_tata"), 300)
    lengths |= dict.fromkeys(("splice_sites_acceptors", "splice_sites_all", "splice_sites_donors"), 600)
    rows: dict[str, tuple[int | None, int | None, int | None]] = {
        "H3K27ac": (30_000, None, 1_616),
        "H3K4me1": (30_000, None, 3_000),
        "H3K9me3": (27_438, None, 850),
        "enhancers": (30_000, None, 3_000),
        "splice_sites_acceptors": (30_000, None, 3_000),
    }
    for name, length in lengths.items():
        yield Outside(
            name=f"nt/{name}",
            folders=(name, f"nucleotide_transformer_downstream_tasks_revised/{name}"),
            hub=NT,
            column=name,
            classes=3 if name in ("enhancers_types", "splice_sites_all") else 2,
            length=length,
            rows=rows.get(name, (None, None, None)),
            unverified=("classes", "length", "rows") if name in rows else ("classes", "length"),
        )


def _benchmarks() -> Iterator[Outside]:
    lengths = {
        "demo_coding_vs_intergenomic_seqs": 200,
        "demo_human_or_worm": 200,
        "drosophila_enhancers_stark": None,
        "dummy_mouse_enhancers_ensembl": 2381,
        "human_enhancers_cohn": 500,
        "human_enhancers_ensembl": 269,
        "human_ensembl_regulatory": 401,
        "human_nontata_promoters": 251,
        "human_ocr_ensembl": 315,
    }
    rows = {
        "demo_human_or_worm": (75_000, None, 25_000),
        "drosophila_enhancers_stark": (5_184, None, 1_730),
        "human_ensembl_regulatory": (231_348, None, 57_713),
        "human_nontata_promoters": (27_097, None, 9_034),
    }
    for name, length in lengths.items():
        yield Outside(
            name=f"genomic-benchmarks/{name}",
            folders=(name, f"genomic_benchmarks/{name}", f"Genomic_Benchmarks_{name}"),
            hub=f"katarinagresova/Genomic_Benchmarks_{name}",
            classes=3 if name == "human_ensembl_regulatory" else 2,
            length=length,
            rows=rows.get(name, (None, None, None)),
            unverified=("classes", "length"),
        )


def _geneb() -> Iterator[Outside]:
    """The ids are those of a submission's results in its repository (`submissions/splicebert-1024nt.json`)."""
    yeast = ("H3", "H3K14ac", "H3K36me3", "H3K4me1", "H3K4me2", "H3K4me3", "H3K79me3", "H3K9ac", "H4", "H4ac")
    revised = [row.column for row in _transformer()]
    first = [*yeast, *(name for name in revised if not name.startswith(("H2", "H3", "H4")))]
    parts = ("300_all", "300_notata", "300_tata", "core_all", "core_notata", "core_tata")
    gue = [*(f"emp_{name}" for name in yeast), *(f"prom_{part}" for part in parts), "splice_reconstructed"]
    gue += [f"{name}_{number}" for name in ("mouse", "human_tf") for number in range(5)]
    gue += ["fungi_species_20", "virus_species_40", "phage_fragments", "virus_covid"]
    plants = ("g_max", "m_esculenta", "s_bicolor", "s_lycopersicum", "t_aestivum", "z_mays")
    promoters = (
        "Arabidopsis_NonTATA",
        "Arabidopsis_TATA",
        "B_amyloliquefaciens",
        "GM12878",
        "HUVEC",
        "Hela-S3",
        "NHEK",
    )
    species = ("A.thaliana", "C.elegans", "D.melanogaster", "E.coli", "G.pickeringii", "G.subterraneus")
    for name in (
        *(f"InstaDeepAI_nucleotide_transformer_downstream_tasks_{task}" for task in first),
        *(f"InstaDeepAI_nucleotide_transformer_downstream_tasks_revised_{task}" for task in revised),
        *(f"leannmlindsey_GUE_{task}" for task in gue),
        *(f"InstaDeepAI_plant-genomic-benchmark_lncrna.{plant}" for plant in plants),
        "InstaDeepAI_plant-genomic-benchmark_pro_seq.m_esculenta",
        *(f"iPro-WAEL_Promoter_{task}" for task in (*promoters, "R_capsulatus")),
        *(f"katarinagresova_{row.folders[-1]}" for row in _benchmarks()),
        *(f"deep4mc_{one}_4mC" for one in species),
        "iDNA_ABF_5mC",
        "iDNA_ABF_6mA",
        "iDHS-EL_DNase_I",
    ):
        yield Outside(name=f"geneb/{name}", folders=(f"tasks/{name}",), hub="")


OUTSIDE: dict[str, Suite] = {
    "gue-plus": Suite(
        title="GUE+",
        rows=tuple(_plus()),
        metric="mcc",
        licence="not found",
        splits="train, dev and test as published; rule not found",
        published="not found in text",
        sources=(
            "https://huggingface.co/datasets/leannmlindsey/GUE/tree/refs%2Fconvert%2Fparquet",
            "https://arxiv.org/abs/2306.15006",
        ),
    ),
    "nt": Suite(
        title="Nucleotide Transformer, 18 revised tasks",
        rows=tuple(_transformer()),
        metric="mcc",
        licence="none on its card",
        splits="train and test as published, no dev; rule not found",
        published="not found in text",
        sources=(f"https://huggingface.co/datasets/{NT}",),
    ),
    "genomic-benchmarks": Suite(
        title="Genomic Benchmarks",
        rows=tuple(_benchmarks()),
        metric="accuracy",
        licence="Apache-2.0 (the card of a copy, katielink/genomic-benchmarks)",
        splits="train and test as published, no dev; rule not found",
        published=(
            "accuracy of a small CNN of the authors (TensorFlow): demo_coding_vs_intergenomic_seqs 87.1 %, "
            "demo_human_or_worm 94.0 %, human_enhancers_cohn 70.8 %, human_enhancers_ensembl 81.1 %, "
            "human_nontata_promoters 85.2 % (experiments/README.md of the repository)"
        ),
        sources=(
            "https://doi.org/10.1186/s12863-023-01123-8",
            "https://github.com/ML-Bioinfo-CEITEC/genomic_benchmarks",
            "https://huggingface.co/datasets/katarinagresova/Genomic_Benchmarks_drosophila_enhancers_stark",
            "https://huggingface.co/datasets/katielink/genomic-benchmarks",
        ),
    ),
    "geneb": Suite(
        title="GENEB",
        rows=tuple(_geneb()),
        metric="mcc",
        licence="Apache-2.0 for code; the data under the terms of its sources (its README)",
        splits=(
            "`tasks/ID/{train,test}.csv` with the header `text,label`, as published by their sources, no dev; tasks "
            "of more than 100,000 sequences are sampled"
        ),
        published=(
            "logistic regression on mean-pooled frozen features, all rows of train, five seeds, MCC as mean of 13 "
            "categories: GENERator-eukaryote-3b 0.605, LucaOne-default-step36M 0.589, GENERator-eukaryote-1.2b 0.581, "
            "GenomeOcean-4B 0.573, NT-2.5B-MS 0.573, Omni-DNA-1B 0.568 (its README)"
        ),
        sources=("https://arxiv.org/abs/2606.04525", "https://github.com/darlednik/GENEB"),
    ),
}
"""Suites by their name for `--suite`."""


def page() -> list[str]:
    """The suites as Markdown, one line each, for `docs/tasks.md`."""
    lines = []
    for name, suite in OUTSIDE.items():
        lines += [f"## {suite.title}: `--suite {name}`", ""]
        for title, text in (
            ("Licence", suite.licence),
            ("Splits", suite.splits),
            ("Published numbers", suite.published),
        ):
            lines.append(f"- {title}: {text}")
        lines += [f"- Metric of its authors: {suite.metric}", f"- Sources: {', '.join(suite.sources)}", ""]
        if not any(row.hub for row in suite.rows):
            lines += [", ".join(f"`{row.name}`" for row in suite.rows), ""]
        else:
            lines += [
                "| task | classes | bases | train | dev | test |",
                "| --- | --- | --- | --- | --- | --- |",
            ]
            lines += [f"| `{row.name}` | {' | '.join(_cells(row))} |" for row in suite.rows] + [""]
    return lines[:-1]


def _cells(row: Outside) -> Iterator[str]:
    """Values as text: `?` is unknown, `~` is not confirmed by a cited page."""
    named = {"classes": (row.classes,), "length": (row.length,), "rows": row.rows}
    for name, values in named.items():
        for value in values:
            yield "?" if value is None else f"{'~' * (name in row.unverified)}{value:,}"


NAMED: dict[str, Outside] = {row.name: row for suite in OUTSIDE.values() for row in suite.rows}


def suite_tasks(suite: str, data_dir: Path | None, *, skip_missing: bool = False) -> list[str]:
    """The tasks of a suite, as names for `harness.data.find_tasks`.

    Raises:
        InputError: with a line for each task whose data is missing; with `skip_missing` these are left out and logged.
    """
    found, problems = [], []
    for row in OUTSIDE[suite].rows:
        try:
            found.append(named(row.name, data_dir))
        except InputError as error:
            problems += error.problems
    if not found and data_dir is not None:
        usual = data_dir / OUTSIDE[suite].rows[0].folders[0]
        raise InputError(
            f"`--suite {suite}` needs data, but {data_dir} has none of its {len(problems)} tasks; "
            f"expected are folders like {usual} with train and test."
        )
    if problems and not (skip_missing and found):
        raise InputError(dict.fromkeys(problems))
    for problem in problems:
        log.warning("--skip-missing leaves out %s", problem)
    return found


def named(name: str, data_dir: Path | None) -> str:
    """The name of a suite's task as that of a custom dataset; other names unchanged.

    Raises:
        InputError: If its data is not below `data_dir`; without `data_dir` the hub's dataset is used.
    """
    base, variant = parted_variant(name)
    return f"{_named(base, data_dir)}{variant.text}" if variant.text else _named(name, data_dir)


def _named(name: str, data_dir: Path | None) -> str:
    row = NAMED.get(name)
    if row is None:
        return name
    if data_dir is None and not row.hub:
        suite = name.split("/")[0]
        raise InputError(
            f"`--data-dir` is needed for {suite}: name a folder that holds {row.folders[0].split('/')[0]}/ID/train.csv "
            f"and test.csv, a copy of the data of {OUTSIDE[suite].sources[-1]}."
        )
    if data_dir is None:
        column = f"task={row.column}&" if row.column else ""
        return f"hub:{row.hub}?{column}name={name}"
    for folder in row.folders:
        if (data_dir / folder).is_dir():
            return f"{data_dir / folder}?name={name}"
    if row.column and _holds_table(data_dir):
        return f"{data_dir}?task={row.column}&name={name}"
    raise InputError(
        f"{name}: expected train and test in {data_dir / row.folders[0]}, but there is no such folder."
    )


def _holds_table(folder: Path) -> bool:
    try:
        return bool(split_files(folder))
    except InputError:
        return False
