"""The paper's quantitative claims that can be tested: published, from the paper's own tables, and ours."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from harness.report import naming, stats
from harness.report.content import amount
from harness.report.paper import verdicts
from harness.report.paper.curves import Curve, curve_of
from harness.report.paper.evidence import DNA, HUMAN, OPTS, PROMOTER, YEAST, Evidence, NotMeasured, Study
from harness.report.paper.verdicts import Check, ClaimResult, Item
from harness.runs.front import pareto_front

DATASETS = (*YEAST, *PROMOTER)
FOUR = (*DNA, *OPTS)


# --- what is compared -------------------------------------------------------------------------------------


def _pairs(datasets: Sequence[str], a: tuple[str, str], b: tuple[str, str]) -> list[tuple[Study, Study]]:
    """(backbone, method) a and b on each dataset."""
    return [((*a, dataset), (*b, dataset)) for dataset in datasets]


def _each(
    evidence: Evidence, backbones: Sequence[str], method: str, others: Sequence[str], *, human: bool = False
) -> list[Item]:
    """The method against each other one, on each dataset of every backbone with all of them."""
    datasets = (*DATASETS, HUMAN) if human and not evidence.exact else DATASETS
    return [
        Item(f"{b} {d} ({naming.method_title(o)})", (((b, method, d), (b, o, d)),))
        for b in evidence.held(backbones, (method, *others), datasets)
        for d in datasets
        for o in others
    ]


def _against_best(evidence: Evidence, backbones: Sequence[str], others: Sequence[str]) -> list[Item]:
    """ARS against the best of the others, one item per dataset and backbone."""
    items = []
    for b in evidence.held(backbones, ("ars", *others), DATASETS):
        for d in DATASETS:
            best = max(others, key=lambda o: evidence.mean((b, o, d)))
            items.append(Item(f"{b} {d} ({naming.method_title(best)})", (((b, "ars", d), (b, best, d)),)))
    return items


def _averages(evidence: Evidence) -> list[Item]:
    """Lingo against each other adapted method, on average over each family."""
    items = []
    for b in evidence.held(OPTS, naming.ADAPTED, DATASETS):
        for family, datasets in (("yeast", YEAST), ("promoter", PROMOTER)):
            for other in ("lora", "adalora", "ars"):
                pairs = tuple(_pairs(datasets, (b, "lingo"), (b, other)))
                items.append(Item(f"{b} {family} ({naming.method_title(other)})", pairs))
    return items


def _tokenizations(evidence: Evidence) -> list[Item]:
    """BBPE against one-hot, on each OPT and promoter set."""
    studies = [(b, "lingo", d) for b in OPTS for d in PROMOTER]
    evidence.need(studies)
    evidence.need(studies, "one_hot")
    return [Item(f"{s[0]} {s[2]}", ((s, s),), ("bbpe", "one_hot")) for s in studies]


def _dna_rivals(study: Study) -> list[Study]:
    """The two DNA backbones trained with the same method; ARS for Lingo, which the paper applies to OPTs only."""
    method = "ars" if study[1] == "lingo" else study[1]
    return [(name, method, study[2]) for name in DNA]


def _lingo(backbone: str, datasets: Sequence[str]) -> list[Study]:
    return [(backbone, "lingo", dataset) for dataset in datasets]


def _adapter_shares(evidence: Evidence) -> ClaimResult:
    """The largest share of parameters that an adapter trains."""
    shares = {
        (b, m): n / evidence.totals[b]
        for (b, m), n in evidence.trained.items()
        if m in naming.ADAPTED and b in evidence.totals
    }
    if not shares:
        raise NotMeasured("needs an adapted method on one of the paper's backbones")
    (backbone, method), most = max(shares.items(), key=lambda item: item[1])
    text = f"at most {most:.2%} ({backbone}, {naming.method_title(method)})"
    return ClaimResult(text, "agrees" if most < 0.02 else "disagrees")


def _share(backbone: str, method: str, evidence: Evidence) -> float:
    return evidence.parameters(backbone, method) / evidence.total(backbone)


def _fewer(backbone: str, evidence: Evidence) -> float:
    return evidence.parameters(backbone, "lora") - evidence.parameters(backbone, "ars")


def _ars_front(evidence: Evidence) -> ClaimResult:
    """Number of datasets on which ARS is on the Pareto front of methods, per DNA backbone."""
    methods, on, off, sure = ("fmft", "lora", "adalora", "ars"), 0, [], False
    for b in evidence.held(DNA, methods, DATASETS):
        for d in DATASETS:
            points = {m: (evidence.parameters(b, m), evidence.mean((b, m, d))) for m in methods}
            if methods.index("ars") in pareto_front(list(points.values())):
                on += 1
                continue
            off.append(f"{b} {d}")
            beating = [
                m
                for m in methods[:3]
                if points[m][0] <= points["ars"][0] and points[m][1] >= points["ars"][1]
            ]
            sure |= any(verdicts.clearly_below(evidence, (b, "ars", d), (b, m, d)) for m in beating)
    why = f"not: {', '.join(off[:4])}" if off else ""
    return ClaimResult(
        f"{on} of {on + len(off)}", "agrees" if not off else "disagrees" if sure else "inconclusive", why
    )


def _flops_ratio(evidence: Evidence) -> float:
    """FLOPs per step of NT-500M divided by those of OPT-125M, with the same batch on the same task."""
    found: dict[str, float] = {}
    for outcome in evidence.outcomes.main if evidence.outcomes is not None else ():
        name = naming.paper_backbone(outcome.key.backbone)
        cost = outcome.total("flops_per_step")
        wanted = {"NT-500M": "ars", "OPT-125M": "lingo"}
        if (
            outcome.key.task == "deepsea/histone"
            and wanted.get(name or "") == outcome.key.method
            and cost > 0
        ):
            found[name or ""] = cost
    if len(found) < 2:
        raise NotMeasured("needs FLOPs of NT-500M (ARS) and OPT-125M (Lingo) on Histone (Human)")
    return found["NT-500M"] / found["OPT-125M"]


def _order(evidence: Evidence) -> ClaimResult:
    """Macro AUROC of the three curves at the largest FLOPs-adjusted step that all of them reach."""
    wanted = {"OPT-350M": "lingo", "OPT-125M": "lingo", "NT-500M": "ars"}
    curves: dict[str, Curve] = {}
    for outcome in evidence.outcomes.main if evidence.outcomes is not None else ():
        name = naming.paper_backbone(outcome.key.backbone) or ""
        if (
            outcome.key.task == "deepsea/histone"
            and wanted.get(name) == outcome.key.method
            and outcome.comparable
        ):
            curve = curve_of(outcome)
            if curve is not None:
                curves[name] = curve
    if set(curves) != set(wanted):
        raise NotMeasured(
            "needs the training curves of NT-500M (ARS), OPT-125M and OPT-350M (Lingo) on Histone (Human)"
        )
    step = min(curve.steps[-1] for curve in curves.values())
    at = {name: _at(curve, step) for name, curve in curves.items()}
    if any(score != score for score in at.values()):
        raise NotMeasured("the curves do not overlap in FLOPs-adjusted steps")
    order = sorted(at, key=lambda name: -at[name])
    text = " > ".join(f"{name} {at[name]:.3f}" for name in order)
    fits = order == ["OPT-350M", "OPT-125M", "NT-500M"]
    return ClaimResult(
        text, "agrees" if fits else "disagrees", f"dev scores at {amount(step)} adjusted steps, by means"
    )


def _at(curve: Curve, step: float) -> float:
    """A curve's score at a step, between its evaluations; NaN before the first."""
    return float(np.interp(step, curve.steps, curve.scores, left=stats.NAN))


def _percent(x: float) -> str:
    return f"{x:.2%}"


# --- the claims -------------------------------------------------------------------------------------------

FULL = {name: (name, "fmft") for name in (*FOUR, "HR-500M", "MS-2.5B", "NT-2.5B")}
EVERYONE = (*FOUR, "HR-500M", "NT-2.5B", "MS-2.5B")

CHECKS: dict[str, Check] = {
    "C001": verdicts.all_above(partial(_against_best, backbones=FOUR, others=("fmft", "lora", "adalora"))),
    "C002": _adapter_shares,
    "C010": verdicts.all_above(
        partial(_each, backbones=("OPT-350M",), method="lingo", others=("fmft",), human=True), ties=True
    ),
    "C011": _adapter_shares,
    "C012": verdicts.top_two(9, _lingo("OPT-350M", YEAST), _dna_rivals),
    "C019": verdicts.on_front(EVERYONE, "fmft", "H3", ("OPT-350M", "DNABERT-2")),
    "C020": verdicts.difference(-2.5, 1, _pairs(("H3",), FULL["OPT-350M"], FULL["MS-2.5B"])),
    "C021": verdicts.quantity(0.14, lambda e: e.total("OPT-350M") / e.total("MS-2.5B"), _percent, 0.05),
    "C022": verdicts.quantity(0.25, lambda e: e.total("OPT-125M") / e.total("HR-500M"), _percent, 0.05),
    "C023": verdicts.on_front(EVERYONE, "fmft", "Prom_tata", OPTS),
    "C024": verdicts.difference(0.85, 2, _pairs(YEAST, FULL["OPT-125M"], FULL["NT-500M"])),
    "C025": verdicts.difference(5.39, 2, _pairs(YEAST, FULL["OPT-350M"], FULL["NT-500M"])),
    "C026": verdicts.difference(1.57, 2, _pairs(PROMOTER, FULL["OPT-125M"], FULL["DNABERT-2"])),
    "C027": verdicts.difference(0.7, 1, _pairs(PROMOTER, FULL["OPT-350M"], FULL["DNABERT-2"])),
    "C031": verdicts.all_above(partial(_against_best, backbones=OPTS, others=("lora", "adalora"))),
    "C032": verdicts.difference(2.5, 1, _pairs(("Prom_tata",), ("OPT-350M", "ars"), ("OPT-350M", "lora"))),
    "C033": verdicts.quantity(1e5, partial(_fewer, "OPT-350M"), amount, 0.5),
    "C034": verdicts.difference(1.7, 1, _pairs(("H4",), ("OPT-350M", "ars"), ("OPT-350M", "lora"))),
    "C035": verdicts.quantity(1e5, partial(_fewer, "OPT-350M"), amount, 0.5),
    "C036": verdicts.all_above(partial(_against_best, backbones=FOUR, others=("lora", "adalora"))),
    "C037": verdicts.value(0.926, ("NT-500M", "ars", "Prom_all")),
    "C038": verdicts.quantity(6.9e6, lambda e: e.parameters("NT-500M", "ars"), amount, 0.01),
    "C039": verdicts.quantity(0.013, partial(_share, "NT-500M", "ars"), _percent, 0.05),
    "C040": verdicts.value(0.95, ("NT-500M", "fmft", "Prom_all")),
    "C041": verdicts.quantity(5e8, lambda e: e.parameters("NT-500M", "fmft"), amount, 0.05),
    "C042": _ars_front,
    "C044": verdicts.all_above(partial(_each, backbones=OPTS, method="lingo", others=("ars",))),
    "C045": verdicts.significant(_pairs(YEAST, ("OPT-125M", "lingo"), ("OPT-125M", "ars"))),
    "C046": verdicts.significant(_pairs(YEAST, ("OPT-350M", "lingo"), ("OPT-350M", "ars"))),
    "C047": verdicts.value(0.735, ("OPT-125M", "lingo", "H4")),
    "C048": verdicts.value(0.734, ("OPT-125M", "adalora", "H4")),
    "C049": verdicts.value(0.725, ("OPT-125M", "lora", "H4")),
    "C050": verdicts.value(0.98, ("OPT-125M", "lingo", "Prom_notata")),
    "C051": verdicts.value(0.947, ("OPT-125M", "fmft", "Prom_notata")),
    "C052": verdicts.value(0.931, ("OPT-125M", "adalora", "Prom_notata")),
    "C053": verdicts.value(0.907, ("OPT-125M", "lora", "Prom_notata")),
    "C054": verdicts.all_above(_averages),
    "C055": verdicts.difference(0.9, 1, _pairs(PROMOTER, ("OPT-350M", "lingo"), ("OPT-350M", "ars"))),
    "C056": verdicts.difference(2.2, 1, _pairs(YEAST, ("OPT-125M", "lingo"), ("OPT-125M", "ars"))),
    "C057": verdicts.difference(2.6, 1, _pairs(YEAST, ("OPT-350M", "lingo"), ("OPT-350M", "ars"))),
    "C058": verdicts.top_two(26, [s for b in OPTS for s in _lingo(b, DATASETS)], _dna_rivals),
    "C059": verdicts.top_two(3, _lingo("OPT-125M", PROMOTER), _dna_rivals),
    "C060": verdicts.top_two(9, _lingo("OPT-350M", YEAST), _dna_rivals),
    "C061": verdicts.value(0.98, ("OPT-125M", "lingo", "Prom_notata")),
    "C062": verdicts.value(0.971, ("OPT-125M", "lingo", "Prom_notata"), "one_hot"),
    "C063": verdicts.all_above(_tokenizations, ties=True),
    "C069": verdicts.quantity(4.443, _flops_ratio, lambda x: f"{x:.3f}x", 0.05),
    "C070": _order,
    "C071": verdicts.value(0.757, ("OPT-125M", "lingo", HUMAN)),
    "C072": verdicts.value(0.744, ("NT-500M", "ars", HUMAN)),
    "C073": verdicts.value(0.774, ("OPT-350M", "lingo", HUMAN)),
    "C074": verdicts.quantity(0.0094, partial(_share, "OPT-350M", "ars"), _percent, 0.02),
    "C075": verdicts.quantity(4.443, _flops_ratio, lambda x: f"{x:.3f}x", 0.05),
}
"""The test of each testable claim of claims.csv; Top-2 counts are interpreted as the same method on the DNA backbones
(ARS for Lingo), since the paper does not specify it."""


def check(name: str, evidence: Evidence) -> ClaimResult:
    """The finding for one claim."""
    try:
        return CHECKS[name](evidence)
    except NotMeasured as reason:
        return ClaimResult("–", "not measured", str(reason))
