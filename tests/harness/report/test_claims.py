"""Claims: the paper's own tables must give what was recomputed from them by hand; verdicts follow the seeds."""

from dataclasses import replace

import numpy as np
import pytest

from harness.report.outcomes import Outcomes, outcomes_of
from harness.report.paper import claims
from harness.report.paper.evidence import Evidence, of_paper, of_results
from harness.report.paper.published import read_published
from harness.report.paper.verdicts import (
    ClaimResult,
    Item,
    all_above,
    difference,
    significant,
    top_two,
    value,
)
from harness.report.run_results import RunResults
from tests.support.paper_like import records

PUBLISHED = read_published()

# From the developers' check of the claims against the tables, made by another script (paper/checks.md).
BY_HAND = {
    "C001": ("14 of 52", "disagrees"),
    "C002": ("at most 1.80% (OPT-350M, LoRA)", "agrees"),
    "C010": ("5 of 13", "disagrees"),
    "C019": ("on the front: DNABERT-2, OPT-350M", "agrees"),
    "C023": ("on the front: DNABERT-2, OPT-125M, OPT-350M, NT-500M", "agrees"),
    "C024": ("+0.85 points", "agrees"),
    "C025": ("+5.39 points", "agrees"),
    "C026": ("+1.57 points", "agrees"),
    "C027": ("+0.70 points", "agrees"),
    "C031": ("25 of 26", "disagrees"),
    "C034": ("+1.90 points", "disagrees"),
    "C036": ("43 of 52", "disagrees"),
    "C042": ("25 of 26", "disagrees"),
    "C044": ("20 of 26", "disagrees"),
    "C045": ("p = 0.0134 (t = 2.64, +2.16 points)", "agrees"),
    "C046": ("p = 0.0052 (t = 3.23, +2.60 points)", "agrees"),
    "C054": ("11 of 12", "disagrees"),
    "C055": ("+0.23 points", "disagrees"),
    "C056": ("+2.16 points", "agrees"),
    "C057": ("+2.60 points", "agrees"),
    "C059": ("3 of 3", "agrees"),
    "C060": ("8 of 10", "disagrees"),
    "C063": ("6 of 6", "agrees"),
    "C074": ("1.77%", "disagrees"),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_the_papers_own_tables(name):
    found = claims.check(name, of_paper(PUBLISHED))
    assert (found.ours, found.verdict) == BY_HAND[name]


def test_every_check_belongs_to_a_published_claim():
    assert set(claims.CHECKS) <= {row["id"] for row in PUBLISHED.claims}


def evidence(**scores):
    """Results of OPT-125M on H3, by method and seed."""
    made = {
        (("OPT-125M", method, "H3"), "bbpe"): dict(enumerate(values)) for method, values in scores.items()
    }
    return Evidence(scores=made, trained={}, totals={}, outcomes=Outcomes({}))


def study(method):
    return "OPT-125M", method, "H3"


PAIR = [(study("lingo"), study("ars"))]


@pytest.mark.parametrize(
    ("lingo", "ars", "verdict"),
    [
        ([0.63, 0.64, 0.62, 0.63], [0.60, 0.61, 0.60, 0.60], "agrees"),  # about +2.7, claimed 2.5
        ([0.73, 0.74, 0.72, 0.73], [0.60, 0.61, 0.60, 0.60], "direction agrees"),
        ([0.60, 0.61, 0.60, 0.60], [0.63, 0.64, 0.62, 0.63], "disagrees"),
        ([0.601, 0.602, 0.600, 0.601], [0.601, 0.601, 0.601, 0.601], "disagrees"),
        ([0.70, 0.55, 0.68, 0.57], [0.60, 0.61, 0.60, 0.60], "inconclusive"),
        ([0.63], [0.60], "inconclusive"),
    ],
)
def test_a_difference_is_judged_with_the_spread_over_seeds(lingo, ars, verdict):
    assert difference(2.5, 1, PAIR)(evidence(lingo=lingo, ars=ars)).verdict == verdict


@pytest.mark.parametrize(
    ("values", "verdict"),
    [([0.62, 0.63, 0.64], "agrees"), ([0.7, 0.701, 0.702], "disagrees"), ([0.63], "inconclusive")],
)
def test_a_printed_value_is_compared_with_single_runs(values, verdict):
    assert value(0.63, study("lingo"))(evidence(lingo=values)).verdict == verdict


@pytest.mark.parametrize(
    ("lingo", "ars", "verdict"),
    [
        ([0.63, 0.64, 0.62], [0.60, 0.61, 0.60], "agrees"),
        ([0.60, 0.66, 0.58], [0.62, 0.61, 0.62], "inconclusive"),
        ([0.50, 0.51, 0.50], [0.62, 0.61, 0.62], "disagrees"),
    ],
)
def test_always_better_fails_only_beyond_the_spread(lingo, ars, verdict):
    check = all_above(lambda _: [Item("H3", tuple(PAIR))])
    assert check(evidence(lingo=lingo, ars=ars)).verdict == verdict


def test_what_is_missing_is_named():
    found = claims.check("C047", evidence(lingo=[0.7]))
    assert found == ClaimResult("–", "not measured", "needs OPT-125M, Lingo, H4")


def test_a_test_needs_all_of_its_datasets():
    check = significant([(("OPT-125M", "lingo", d), ("OPT-125M", "ars", d)) for d in ("H3", "H4")])
    with pytest.raises(Exception, match="needs OPT-125M, Lingo, H4 and 1 more"):
        check(evidence(lingo=[0.6, 0.7], ars=[0.5, 0.6]))


def results(made):
    return outcomes_of([RunResults(folder=None, trials=list(made))])


def test_results_that_repeat_the_paper_agree_with_its_tables():
    """Scores of the tables with a little noise: what the tables support must be supported, nothing else clearly so."""
    ours = of_results(results(records(seeds=3, trials=0, noise=0.0001)))
    paper = of_paper(PUBLISHED)
    judged = {name: (claims.check(name, paper).verdict, claims.check(name, ours).verdict) for name in BY_HAND}
    wrong = {
        name: pair
        for name, pair in judged.items()
        if pair in {("agrees", "disagrees"), ("disagrees", "agrees")}
    }
    assert wrong == {}


@pytest.mark.parametrize("mark", ["smoke", "untrained backbone", "changed split"])
def test_marked_results_are_not_compared(mark):
    made = [record for record in records(tasks=("EMP/H4",), trials=0) if record.backbone == "opt-125m"]
    assert claims.check("C047", of_results(results(made))).verdict == "agrees"
    found = claims.check("C047", of_results(results([replace(record, marks=(mark,)) for record in made])))
    assert (found.verdict, found.why) == ("not measured", f"these results have the caveats {mark}")


def test_top_two_is_judged_by_what_single_runs_would_count():
    rng = np.random.default_rng(1)
    studies = [("OPT-350M", "lingo", f"d{i}") for i in range(10)]
    rivals = {s: [("DNABERT-2", "ars", s[2]), ("NT-500M", "ars", s[2])] for s in studies}
    scores = {(s, "bbpe"): dict(enumerate(rng.normal(0.5, 0.01, 5))) for s in studies}
    scores |= {
        (r, "bbpe"): dict(enumerate(rng.normal(0.5, 0.01, 5))) for pair in rivals.values() for r in pair
    }
    found = Evidence(scores=scores, trained={}, totals={}, outcomes=Outcomes({}))
    assert top_two(7, studies, lambda s: rivals[s])(found).verdict == "agrees"
    assert top_two(0, studies, lambda s: rivals[s])(found).verdict == "disagrees"
