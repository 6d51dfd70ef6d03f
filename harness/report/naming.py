"""Display names of tasks, families, backbones, methods and metrics, as in the paper."""

from collections.abc import Iterable
from dataclasses import dataclass

from harness.data.variants import parted_variant
from harness.runs.controls import is_control, pretrained_of
from lingo.methods import METHODS

FAMILIES = {
    "EMP": "Histone (Yeast)",
    "prom_300": "Promoter (Human)",
    "deepsea": "Histone (Human)",
    "prom_core": "Core promoter (Human)",
    "tf": "TF binding (Human)",
    "mouse": "TF binding (Mouse)",
    "splice": "Splice site (Human)",
    "virus": "Virus variant",
    "quickstart": "Quickstart (generated)",
}
"""Titles of task families; the first three are the paper's (table S0)."""

METRICS = {
    "mcc": "MCC",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "accuracy": "accuracy",
    "f1": "F1 (macro)",
    "pearson": "Pearson r",
    "spearman": "Spearman ρ",
    "mse": "MSE",
    "brier": "Brier",
    "ece": "ECE",
    "nll": "NLL",
}

PUBLISHED_METRIC = {"EMP": "mcc", "prom_300": "auroc", "deepsea": "auroc"}
"""The metric in which the paper reports a family (tables S2 and S3, section 2.6)."""

PAPER_DATASETS = {
    **{
        f"EMP/{mark}": mark
        for mark in (
            "H3",
            "H3K4me1",
            "H3K4me2",
            "H3K4me3",
            "H3K9ac",
            "H3K14ac",
            "H3K36me3",
            "H3K79me3",
            "H4",
            "H4ac",
        )
    },
    "prom/prom_300_all": "Prom_all",
    "prom/prom_300_notata": "Prom_notata",
    "prom/prom_300_tata": "Prom_tata",
    "deepsea/histone": "Histone",
}
"""The paper's 14 datasets, in its order, by the names of this project's tasks."""

PAPER_BACKBONES = {
    "dnabert-2": "DNABERT-2",
    "dnabert-2-117m": "DNABERT-2",
    "nt-500m-1000g": "NT-500M",
    "nucleotide-transformer-500m-1000g": "NT-500M",
    "opt-125m": "OPT-125M",
    "opt-350m": "OPT-350M",
    "nt-500m-human-ref": "HR-500M",
    "nucleotide-transformer-500m-human-ref": "HR-500M",
    "nt-2.5b-1000g": "NT-2.5B",
    "nucleotide-transformer-2.5b-1000g": "NT-2.5B",
    "nt-2.5b-multi-species": "MS-2.5B",
    "nucleotide-transformer-2.5b-multi-species": "MS-2.5B",
}
"""The paper's backbones by known names and by the last part of hub ids: first the four that its tables have."""

ADAPTED = ("lora", "adalora", "ars", "lingo")
"""The paper's parameter-efficient methods, in its order."""


@dataclass(frozen=True, order=True)
class Key:
    """Key of a set of seeds: a study and its tokenisation."""

    task: str
    backbone: str
    method: str
    tokenization: str = "bbpe"


def paper_backbone(name: str) -> str | None:
    """The paper's name of a backbone (`facebook/opt-125m` is OPT-125M); `None` if it has none."""
    return PAPER_BACKBONES.get(name.rsplit("/", 1)[-1].casefold())


def backbone_title(name: str) -> str:
    """The paper's name if there is one, otherwise the name itself; of a control with what it is."""
    if is_control(name):
        return f"{backbone_title(pretrained_of(name))} with random weights"
    return paper_backbone(name) or name


def method_title(name: str) -> str:
    """`lora` is LoRA."""
    return METHODS[name].title if name in METHODS else name


def family_title(name: str) -> str:
    """`EMP` is Histone (Yeast)."""
    return FAMILIES.get(name, name)


def task_title(name: str) -> str:
    """The paper's name of a task, otherwise the last part of its own name, with its family where that is ambiguous."""
    base, variant = parted_variant(name)
    short = base.rsplit("/", 1)[-1]
    return (PAPER_DATASETS.get(base) or (base if short.isdigit() else short)) + variant.text


def metric_title(name: str) -> str:
    """`mcc` is MCC."""
    return METRICS.get(name, name)


def is_baseline(method: str, backbone: str) -> bool:
    """Whether a study is a simple baseline without a pretrained backbone, a control among them."""
    return (
        backbone == "none"
        or is_control(backbone)
        or (method in METHODS and not getattr(METHODS[method], "needs_backbone", True))
    )


def method_order(names: Iterable[str]) -> list[str]:
    """Distinct methods as in the registry, unknown ones at the end by name."""
    known = list(METHODS)
    return sorted(set(names), key=lambda name: (known.index(name) if name in known else len(known), name))


def backbone_order(names: Iterable[str]) -> list[str]:
    """Distinct backbones, the paper's in its order first, then the others by name."""
    paper = list(dict.fromkeys(PAPER_BACKBONES.values()))

    def place(name: str) -> tuple[int, str]:
        known = paper_backbone(name)
        return (paper.index(known) if known else len(paper), name)

    return sorted(set(names), key=place)


def task_order(names: Iterable[str]) -> list[str]:
    """Distinct tasks, first the paper's in its order, then the others in order of appearance."""
    found, paper = list(dict.fromkeys(names)), list(PAPER_DATASETS)
    return sorted(found, key=lambda name: paper.index(name) if name in paper else len(paper))
