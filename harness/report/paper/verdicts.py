"""Comparison of evidence and claims: with the spread over seeds for our results, exactly for published tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from harness.report import stats
from harness.report.content import interval, number, signed
from harness.report.paper.evidence import YEAST, Evidence, NotMeasured, Study
from harness.runs.front import pareto_front
from harness.runs.intervals import LEAST_SEEDS, range_of, why_none

Verdict = Literal["agrees", "direction agrees", "inconclusive", "disagrees", "not measured"]
ALPHA = 0.05
CELL = 0.0005
"""Rounding error of a published score."""

DRAWS = 2000


@dataclass(frozen=True)
class ClaimResult:
    """What the evidence says of a claim.

    Attributes:
        ours: Our value.
        verdict: Agreement.
        why: Explanation.
    """

    ours: str
    verdict: Verdict
    why: str = ""


Check = Callable[[Evidence], ClaimResult]


def value(claimed: float, study: Study, tokenization: str = "bbpe") -> Check:
    """A published score: is it within the 95 % prediction interval of a single run?"""

    def check(evidence: Evidence) -> ClaimResult:
        values = list(evidence.values(study, tokenization).values())
        found = stats.estimate([values], range_of(_metric(study)))
        if evidence.exact:
            return ClaimResult(
                number(found.mean), "agrees" if abs(found.mean - claimed) <= CELL else "disagrees"
            )
        text = f"{number(found.mean)} {interval(found.low, found.high)}".strip()
        if found.why:
            return ClaimResult(text, "inconclusive", found.why)
        inside = found.single_low - CELL <= claimed <= found.single_high + CELL
        where = f"single runs: {interval(found.single_low, found.single_high)}"
        return ClaimResult(text, "agrees" if inside else "disagrees", where)

    return check


def difference(points: float, digits: int, pairs: Sequence[tuple[Study, Study]]) -> Check:
    """A mean difference over datasets in points (1 point is 0.01), published with this many digits."""

    def check(evidence: Evidence) -> ClaimResult:
        evidence.need([study for pair in pairs for study in pair])
        bounds = stats.difference_range(
            max(_metric(a) for a, _ in pairs)
        )  # "mcc", of the wider range, where one is
        found = stats.estimate([evidence.differences(a, b) for a, b in pairs], bounds)
        tolerance = 0.5 * 10.0**-digits / 100 + CELL
        claimed = points / 100
        if evidence.exact:
            fits = abs(found.mean - claimed) <= tolerance
            return ClaimResult(_points(found.mean), "agrees" if fits else "disagrees")
        text = f"{_points(found.mean)} {_points_interval(found.low, found.high)}".strip()
        if found.why:
            return ClaimResult(text, "inconclusive", found.why)
        return ClaimResult(text, *_sized(found, claimed, tolerance))

    return check


def _metric(study: Study) -> str:
    """The metric in which the paper reports a study's dataset."""
    return "mcc" if study[2] in YEAST else "auroc"


def _sized(found: stats.Estimate, claimed: float, tolerance: float) -> tuple[Verdict, str]:
    sign = 1 if claimed >= 0 else -1
    shown = min(sign * found.low, sign * found.high) > 0
    reversed_ = max(sign * found.low, sign * found.high) < 0
    fits = found.single_low - tolerance <= claimed <= found.single_high + tolerance
    if reversed_:
        return "disagrees", "the difference has the opposite sign"
    if fits:
        return (
            ("agrees", "") if shown else ("inconclusive", "both the claim and no difference are compatible")
        )
    if shown:
        return "direction agrees", "different size"
    return "disagrees", "no significant difference, and one of this size is excluded"


def _points(x: float) -> str:
    return f"{signed(100 * x, 2)} points"


def _points_interval(low: float, high: float) -> str:
    return interval(100 * low, 100 * high, 2)


@dataclass(frozen=True)
class Item:
    """One of several comparisons that a claim states: a - b > 0 in the mean of `pairs`."""

    label: str
    pairs: tuple[tuple[Study, Study], ...]
    tokenizations: tuple[str, str] = ("bbpe", "bbpe")


def all_above(items: Callable[[Evidence], Sequence[Item]], *, ties: bool = False) -> Check:
    """A claim that something is better everywhere: it agrees if every mean does, and disagrees if one item is
    significantly below (one-sided, Holm's correction); otherwise it is inconclusive."""

    def check(evidence: Evidence) -> ClaimResult:
        wanted = items(evidence)
        groups = [[evidence.differences(a, b, item.tokenizations) for a, b in item.pairs] for item in wanted]
        found = [stats.estimate(group) for group in groups]
        below = [item for item, e in zip(wanted, found, strict=True) if not _above(e.mean, ties)]
        text = f"{len(wanted) - len(below)} of {len(wanted)}"
        names = ", ".join(item.label for item in below[:4]) + (
            f" and {len(below) - 4} more" if len(below) > 4 else ""
        )
        if not below:
            return ClaimResult(text, "agrees")
        if evidence.exact:
            return ClaimResult(text, "disagrees", f"not: {names}")
        adjusted = stats.holm([_below_p(group) for group in groups])
        sure = [item.label for item, p in zip(wanted, adjusted, strict=True) if p < ALPHA]
        if sure:
            return ClaimResult(
                text, "disagrees", f"clearly not: {', '.join(sure[:4])}" + (" …" if len(sure) > 4 else "")
            )
        return ClaimResult(text, "inconclusive", f"not: {names}; within the spread of seeds")

    return check


def _above(mean: float, ties: bool) -> bool:
    return mean > 0 or (ties and abs(mean) < 1e-12)


def _below_p(groups: Sequence[Sequence[float]]) -> float:
    """One-sided p-value that a mean difference is below 0; NaN without a spread."""
    found = stats.estimate(groups)
    return float(scipy_stats.t.cdf(found.mean / found.error, found.df)) if not found.why else stats.NAN


def significant(pairs: Sequence[tuple[Study, Study]]) -> Check:
    """A one-sided paired t-test over datasets that is significant in the paper."""

    def check(evidence: Evidence) -> ClaimResult:
        evidence.need([study for pair in pairs for study in pair])
        a, b = [evidence.mean(x) for x, _ in pairs], [evidence.mean(y) for _, y in pairs]
        found = stats.paired_t(a, b, "greater")
        text = f"p = {found.p:.4f} (t = {number(found.t, 2)}, {_points(found.difference)})"
        if found.p < ALPHA:
            return ClaimResult(text, "agrees")
        verdict: Verdict = "disagrees" if found.difference <= 0 else "inconclusive"
        return ClaimResult(text, verdict, f"not significant at {ALPHA:g}")

    return check


def top_two(claimed: int, studies: Sequence[Study], rivals: Callable[[Study], Sequence[Study]]) -> Check:
    """A Top-2 count; for our results with the counts that single runs would give (one seed drawn per study)."""

    def check(evidence: Evidence) -> ClaimResult:
        evidence.need([s for study in studies for s in (study, *rivals(study))])
        hits = sum(
            sum(evidence.mean(rival) > evidence.mean(study) for rival in rivals(study)) < 2
            for study in studies
        )
        text = f"{hits} of {len(studies)}"
        if evidence.exact:
            return ClaimResult(text, "agrees" if hits == claimed else "disagrees")
        fewest = min((evidence.values(s) for study in studies for s in (study, *rivals(study))), key=len)
        if len(fewest) < LEAST_SEEDS:
            return ClaimResult(text, "inconclusive", why_none(list(fewest.values())))
        low, high = _single_counts(evidence, studies, rivals)
        inside = low <= claimed <= high
        where = f"single runs: {low} to {high}" if low < high else f"single runs: always {low}"
        return ClaimResult(text, "agrees" if inside else "disagrees", where)

    return check


def _single_counts(
    evidence: Evidence, studies: Sequence[Study], rivals: Callable[[Study], Sequence[Study]]
) -> tuple[int, int]:
    """95 % range of the count when each study is one run, its seed drawn at random."""
    rng = np.random.default_rng(0)

    def draw(study: Study) -> NDArray[np.float64]:
        values = np.array(list(evidence.values(study).values()))
        return values[rng.integers(0, len(values), DRAWS)]

    counts = np.zeros(DRAWS, dtype=int)
    for study in studies:
        mine = draw(study)
        counts += sum((draw(rival) > mine).astype(int) for rival in rivals(study)) < 2
    low, high = np.quantile(counts, [0.025, 0.975], method="nearest")
    return int(low), int(high)


def on_front(candidates: Sequence[str], method: str, dataset: str, wanted: Sequence[str]) -> Check:
    """That backbones lie on the Pareto front of size and score among those that are there."""

    def check(evidence: Evidence) -> ClaimResult:
        evidence.need([(name, method, dataset) for name in wanted])
        names = [name for name in candidates if evidence.has((name, method, dataset))]
        if len(names) < 2:
            raise NotMeasured("needs another backbone for comparison")
        points = [(evidence.total(name), evidence.mean((name, method, dataset))) for name in names]
        front = [names[i] for i in pareto_front(points)]
        text, among = f"on the front: {', '.join(front)}", f"among {', '.join(names)}"
        place = dict(zip(names, points, strict=True))
        off = [name for name in wanted if name not in front]
        beaten = [
            clearly_below(evidence, (name, method, dataset), (other, method, dataset))
            for name in off
            for other in names
            if other != name and place[other][0] <= place[name][0] and place[other][1] >= place[name][1]
        ]
        if not off:
            return ClaimResult(text, "agrees", among)
        return ClaimResult(text, "disagrees" if any(beaten) else "inconclusive", among)

    return check


def clearly_below(evidence: Evidence, a: Study, b: Study) -> bool:
    """Whether study `a` scores significantly below `b`; published numbers always do."""
    return evidence.exact or _below_p([evidence.differences(a, b)]) < ALPHA


def quantity(
    claimed: float, compute: Callable[[Evidence], float], show: Callable[[float], str], rel: float
) -> Check:
    """A count or ratio without a spread; it agrees within the relative tolerance `rel` of the published precision."""

    def check(evidence: Evidence) -> ClaimResult:
        found = compute(evidence)
        return ClaimResult(
            show(found), "agrees" if abs(found - claimed) <= rel * abs(claimed) else "disagrees"
        )

    return check
