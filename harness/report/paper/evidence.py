"""Evidence for testing the paper's claims, under the paper's names: these results, or the paper's own tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.report import naming, stats
from harness.report.naming import PAPER_DATASETS
from harness.report.outcomes import Outcome, Outcomes
from harness.report.paper.published import Published, parameter_count

Study = tuple[str, str, str]
"""Backbone, method, dataset, under the paper's names."""

YEAST = tuple(name for task, name in PAPER_DATASETS.items() if task.startswith("EMP/"))
PROMOTER = tuple(name for task, name in PAPER_DATASETS.items() if task.startswith("prom/"))
HUMAN = "Histone"
OPTS, DNA = ("OPT-125M", "OPT-350M"), ("DNABERT-2", "NT-500M")


class NotMeasured(Exception):
    """The evidence is incomplete; the message says what is missing."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Scores by study and seed.

    Attributes:
        scores: By study and tokenisation, by seed.
        trained: Trained parameters by (backbone, method).
        totals: All parameters by backbone.
        outcomes: The results themselves, for curves; `None` for the paper's tables.
        excluded: Studies excluded because of their caveats, and these caveats.
    """

    scores: Mapping[tuple[Study, str], Mapping[int, float]]
    trained: Mapping[tuple[str, str], float]
    totals: Mapping[str, float]
    outcomes: Outcomes | None = None
    excluded: Mapping[Study, Sequence[str]] = field(default_factory=dict)

    @property
    def exact(self) -> bool:
        """Whether these are published numbers, without a spread."""
        return self.outcomes is None

    def has(self, study: Study, tokenization: str = "bbpe") -> bool:
        """Whether a study exists."""
        return (study, tokenization) in self.scores

    def values(self, study: Study, tokenization: str = "bbpe") -> Mapping[int, float]:
        """Scores by seed. Raises `NotMeasured`."""
        self.need([study], tokenization)
        return self.scores[study, tokenization]

    def mean(self, study: Study, tokenization: str = "bbpe") -> float:
        """Mean over seeds. Raises `NotMeasured`."""
        return stats.mean(list(self.values(study, tokenization).values()))

    def need(self, studies: Sequence[Study], tokenization: str = "bbpe") -> None:
        """Raise `NotMeasured` unless all exist."""
        missing = [study for study in studies if not self.has(study, tokenization)]
        if not missing:
            return
        marked = [study for study in missing if study in self.excluded]
        if marked:
            marks = ", ".join(dict.fromkeys(mark for study in marked for mark in self.excluded[study]))
            raise NotMeasured(f"these results have the caveats {marks}")
        backbone, method, dataset = missing[0]
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        scheme = "" if tokenization == "bbpe" else f" with {tokenization}"
        raise NotMeasured(f"needs {backbone}, {naming.method_title(method)}, {dataset}{scheme}{more}")

    def differences(
        self, a: Study, b: Study, tokenizations: tuple[str, str] = ("bbpe", "bbpe")
    ) -> list[float]:
        """a - b by seed where both have the seed; the difference of means where no seed is common."""
        x, y = self.values(a, tokenizations[0]), self.values(b, tokenizations[1])
        common = sorted(set(x) & set(y))
        return [x[s] - y[s] for s in common] or [stats.mean(list(x.values())) - stats.mean(list(y.values()))]

    def parameters(self, backbone: str, method: str) -> float:
        """Trained parameters. Raises `NotMeasured`."""
        if (backbone, method) not in self.trained:
            raise NotMeasured(f"needs {backbone}, {naming.method_title(method)}")
        return self.trained[backbone, method]

    def total(self, backbone: str) -> float:
        """All parameters of a backbone. Raises `NotMeasured`."""
        if backbone not in self.totals:
            raise NotMeasured(f"needs {backbone}")
        return self.totals[backbone]

    def held(self, backbones: Sequence[str], methods: Sequence[str], datasets: Sequence[str]) -> list[str]:
        """Those of the backbones that have every method on every dataset. Raises `NotMeasured` if none has."""
        wanted = {b: [(b, m, d) for m in methods for d in datasets] for b in backbones}
        found = [b for b, studies in wanted.items() if all(map(self.has, studies))]
        if not found:
            fewest = min(wanted.values(), key=lambda studies: sum(not self.has(s) for s in studies))
            self.need(fewest)
        return found


def of_results(outcomes: Outcomes) -> Evidence:
    """These results, as far as their caveats and metric permit a comparison with the paper."""
    scores: dict[tuple[Study, str], Mapping[int, float]] = {}
    trained: dict[tuple[str, str], float] = {}
    totals: dict[str, float] = {}
    excluded: dict[Study, Sequence[str]] = {}
    for outcome in outcomes.scored:
        backbone = naming.paper_backbone(outcome.key.backbone)
        dataset = PAPER_DATASETS.get(outcome.key.task)
        if backbone is None or dataset is None or outcome.baseline:
            continue
        study = (backbone, outcome.key.method, dataset)
        if not outcome.comparable:
            excluded[study] = outcome.marks
        elif outcome.metric == naming.PUBLISHED_METRIC[outcome.family]:
            scores[study, outcome.key.tokenization] = outcome.scores
        trained.setdefault((backbone, outcome.key.method), outcome.parameters)
        totals.setdefault(backbone, _total(outcome))
    known = {name: count for name, count in totals.items() if count == count}
    return Evidence(scores=scores, trained=trained, totals=known, outcomes=outcomes, excluded=excluded)


def _total(outcome: Outcome) -> float:
    return outcome.parameters if outcome.key.method == "fmft" else outcome.total("total_parameters")


def of_paper(published: Published) -> Evidence:
    """The paper's own tables S2, S3 and 1."""
    scores: dict[tuple[Study, str], Mapping[int, float]] = {
        (study, "bbpe"): {0: value} for study, value in published.scores.items()
    }
    for (backbone, scheme, dataset), value in published.tokenizations.items():
        scores.setdefault(((backbone, "lingo", dataset), scheme), {0: value})
    trained = {pair: parameter_count(text) for pair, text in published.parameters.items()}
    return Evidence(
        scores=scores, trained=trained, totals={b: n for (b, m), n in trained.items() if m == "fmft"}
    )
