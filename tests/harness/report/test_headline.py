"""What a report calls best: ties, baselines that win, collapsed studies, and how sure; each sentence read by itself."""

import math
from dataclasses import replace

import numpy as np
import pytest

from harness.report import best_pairs
from harness.report.content import plain_text
from harness.report.leaderboard import leaderboard, plain
from harness.report.outcomes import outcomes_of
from harness.report.paper import figures
from harness.report.paper import tables as paper_tables
from harness.report.paper.published import read_published
from harness.report.run_results import RunResults
from harness.report.sections import overview, significance
from harness.runs.shortcuts import SHORTCUT
from lingo.methods import METHODS
from tests.support.paper_like import record

RNG = np.random.default_rng(0)
H3, H4 = "EMP/H3", "EMP/H4"
STAR = "★"


def study(method, scores, task=H3, *, collapsed=(), **facts):
    """Final runs of these test scores, one a seed."""
    backbone = "opt-125m" if METHODS[method].needs_backbone else "none"
    made = []
    for seed, score in enumerate(scores):
        run = record(task, backbone, method, "final", seed, score, RNG)
        own = {**run.facts, **facts, "collapsed": seed in collapsed, "interval": {}}
        made.append(replace(run, facts=own, test={**run.test, "collapsed": float(seed in collapsed)}))
    return made


def dead(method, seeds=3, task=H3):
    return study(method, [0.0] * seeds, task, collapsed=range(seeds))


class Seen:
    """What each place that names a best one says of the same records."""

    def __init__(self, *studies):
        self.records = [run for runs in studies for run in runs]
        self.outcomes = outcomes_of([RunResults(folder="run", trials=self.records)])
        self.lead = overview.lead([RunResults(folder="run", trials=self.records)], self.outcomes)
        self.rows = leaderboard(self.records)
        self.starred = sorted(row.method for row in self.rows if row.best)
        found = best_pairs.best_of(self.outcomes, "EMP")
        self.best = sorted(method for _, method in found.pairs)
        self.second = sorted(method for _, method in found.second)
        self.winners = [plain_text(cell) for cell in best_pairs.table(self.outcomes, [found]).rows[0]]
        tables = paper_tables.section(self.outcomes, read_published()).blocks[0]
        self.crowned = sorted(plain_text(row[0]) for row in tables.rows if STAR in plain_text(row[2]))
        self.bold = sorted(plain_text(row[0]) for row in tables.rows if row[2].look == "best")


@pytest.mark.parametrize(("rule", "told"), [(0.79, True), (0.9, True), (0.7, False)])
def test_a_rule_that_comes_near_is_said_and_marked(rule, told):
    seen = Seen(study("lora", [0.8] * 3), study("ars", [0.75] * 3), study("rule_twin", [rule] * 3))
    assert ("rule without biology" in seen.lead and "rule: shuffle twin" in seen.lead) == told
    assert all((SHORTCUT in outcome.marks) == told for outcome in seen.outcomes)
    assert all((SHORTCUT in row.marks) == told for row in seen.rows)


def test_rules_alone_have_no_shortcut():
    rows = leaderboard([*study("rule_twin", [0.8] * 3), *study("lora", [0.8] * 3, H4)])
    assert len(rows) == 2 and not any(SHORTCUT in row.marks for row in rows)


def test_all_equal_on_one_dataset():
    seen = Seen(study("lora", [0.5] * 3), study("adalora", [0.5] * 3), study("ars", [0.5] * 3))
    assert (
        "LoRA, AdaLoRA and ARS tie with MCC 0.500; a single dataset" in seen.lead
        and "highest" not in seen.lead
    )
    assert (seen.starred, seen.crowned, seen.bold, seen.second) == ([], [], [], [])
    assert (
        seen.best == ["adalora", "ars", "lora"] and "tie of 3" in seen.winners[1] and seen.winners[5] == "tie"
    )
    assert all("equals" in row[2] for row in significance.section(seen.outcomes).blocks[2].rows)


def test_all_of_one_mean_rank_over_two_datasets():
    """The quickstart's case: each first once, second once, third once in sum."""
    seen = Seen(
        *(study("lora", [0.5, 0.5], H3), study("adalora", [0.4, 0.4], H3), study("ars", [0.3, 0.3], H3)),
        *(study("lora", [0.3, 0.3], H4), study("adalora", [0.4, 0.4], H4), study("ars", [0.5, 0.5], H4)),
    )
    assert seen.lead == (
        "Of 3 methods on 1 backbone and 2 datasets (2 seeds each), LoRA, AdaLoRA and ARS tie: each has mean rank 2.00 "
        "over 2 pairs of dataset and backbone."
    )


def test_two_equal():
    seen = Seen(study("lora", [0.5] * 3), study("adalora", [0.5] * 3), study("ars", [0.4] * 3))
    assert "LoRA and AdaLoRA tie with MCC 0.500, ahead of the others" in seen.lead
    assert seen.starred == seen.best == ["adalora", "lora"] and seen.second == ["ars"]
    assert len(seen.crowned) == len(seen.bold) == 2
    assert "several * in a task: tie" in plain(seen.rows)


def test_all_collapsed():
    seen = Seen(dead("lora"), dead("adalora"), dead("ars"))
    assert "None scores above a constant prediction on any dataset" in seen.lead
    assert "3 studies (LoRA on H3, AdaLoRA on H3, ARS on H3) predict the same for every row" in seen.lead
    assert seen.starred == seen.best == seen.second == seen.crowned == seen.bold == []
    assert seen.winners[1].startswith("none") and significance.method_ranking(seen.outcomes) is None
    assert not significance.within_datasets(seen.outcomes)
    counts = figures.top_two_of_methods(seen.outcomes, [H3], "opt-125m", "lora", others=["adalora", "ars"])
    assert counts == (0, 1)


def test_one_collapsed():
    """With a mean above the others, too: it is never best, next best or first in rank."""
    seen = Seen(study("lora", [-0.1] * 3), study("adalora", [0.2, 0.3, 0.4]), dead("ars"))
    assert seen.starred == seen.best == ["adalora"] and seen.second == []
    assert "the only one left: all others are excluded" in seen.winners[1]
    assert "excluded: OPT-125M · LoRA, OPT-125M · ARS" in seen.winners[3]
    assert len(seen.crowned) == len(seen.bold) == 1
    assert (
        "AdaLoRA scores highest of the methods (MCC 0.300); no other method is above a constant prediction"
        in seen.lead
    )
    assert "1 study (ARS on H3) predicts the same for every row" in seen.lead
    assert "1 study (LoRA on H3) is not above a constant prediction" in seen.lead
    assert significance.method_ranking(seen.outcomes).ranks == (1.0, 2.5, 2.5)
    high = Seen(study("lora", [0.9, 0.0], collapsed=[1]), study("ars", [0.1, 0.2]))
    assert high.starred == high.best == ["ars"] and "1 study (LoRA on H3) predicts the same" in high.lead


def test_a_pair_that_collapsed_on_some_of_its_datasets_says_so():
    tasks = (H3, H4, "EMP/H4ac")
    seen = Seen(
        *(study("lora", [0.5, 0.52, 0.53], task) for task in tasks),
        *(study("ars", [0.4, 0.45, 0.43], task) for task in tasks[:2]),
        *(dead("ars", task=tasks[2]), *(dead("adalora", task=task) for task in tasks)),
    )
    assert seen.best == ["lora"] and seen.second == ["ars"]
    assert seen.winners[3] == "OPT-125M · ARS collapsed on 1 of 3"
    assert "AdaLoRA" not in " ".join(seen.winners)


def test_a_pair_that_is_no_better_than_a_constant_on_half_of_its_datasets_is_not_named():
    seen = Seen(
        *(study("lora", [0.5, 0.52, 0.53], task) for task in (H3, H4)),
        *(study("adalora", [0.8, 0.82, 0.81], H3), study("adalora", [0.0, -0.1, 0.0], H4)),
    )
    assert seen.best == ["lora"] and seen.second == []


def test_a_lead_beyond_chance_is_a_lead():
    tasks = (H3, H4, "EMP/H4ac", "EMP/H3K4me1", "EMP/H3K4me2", "EMP/H3K4me3", "EMP/H3K9ac")
    seen = Seen(
        *(study("lora", [0.5, 0.52, 0.53], task) for task in tasks),
        *(study("ars", [0.4, 0.45, 0.43], task) for task in tasks),
    )
    assert "LoRA has the best mean rank (1.00 over 7 pairs" in seen.lead
    assert "all other methods differ from it in rank" in seen.lead


def test_a_baseline_is_best():
    simple = [study("kmer_logreg", [0.6] * 3, task) for task in (H3, H4)]
    seen = Seen(
        *(study("lora", [0.5, 0.52, 0.51], task) for task in (H3, H4)),
        *(study("ars", [0.4, 0.42, 0.41], task) for task in (H3, H4)),
        *simple,
    )
    assert (
        "none can be called best by its mean rank over 2 pairs of dataset and backbone, too few to distinguish "
        "methods: LoRA 1.00, ARS 2.00, although a simple baseline (k-mer logistic regression) is at least as good as "
        "every method on 2 of 2 datasets." in seen.lead
    )
    assert set(seen.starred) == {"kmer_logreg"} and all("baseline" in name for name in seen.crowned)
    assert "not above the best simple baseline" in seen.winners[2] and seen.winners[6].startswith("−0.090")
    above = Seen(study("lora", [0.7] * 3), study("ars", [0.4] * 3), study("kmer_logreg", [0.6] * 3))
    assert above.lead.endswith("The best method is above every simple baseline.") and above.starred == [
        "lora"
    ]


def test_a_single_study_is_not_the_best_of_anything():
    seen = Seen(study("lora", [0.5, 0.6, 0.7]))
    assert "OPT-125M · LoRA scores MCC 0.600, with no other method to compare." in seen.lead
    assert seen.starred == seen.crowned == seen.bold == [] and seen.second == []
    assert "best of" not in plain(seen.rows) and "*" not in plain(seen.rows)


def test_undefined_scores_are_named_and_never_best():
    seen = Seen(
        study("lora", [math.nan] * 3), study("ars", [0.4, 0.5, 0.6]), study("adalora", [0.1, 0.2, 0.3])
    )
    assert "1 study (LoRA on H3) has no defined test score" in seen.lead
    assert seen.starred == ["ars"] and seen.best == ["ars"] and seen.second == ["adalora"]
    every = [run for method in ("lora", "ars") for run in study(method, [math.nan] * 3)]
    outcomes = outcomes_of([RunResults(folder="run", trials=list(every))])
    lead = overview.lead([RunResults(folder="run", trials=list(every))], outcomes)
    assert lead.startswith("No method has a defined test score, although 6 of 6 final runs are finished.")
    marked = [replace(run, marks=("undefined test score",)) for run in every]
    outcomes = outcomes_of([RunResults(folder="run", trials=list(marked))])
    lead = overview.lead([RunResults(folder="run", trials=list(marked))], outcomes)
    assert (
        "are finished (caveat “undefined test score”: every row of the test split has the same label" in lead
    )
    assert "undefined" in plain(leaderboard(every)) and "nan" not in plain(leaderboard(every))


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (
            [0.5],
            [0.4],
            "LoRA scores highest of the methods (MCC 0.500); its lead over ARS, +0.100, is not tested: 1 seed cannot",
        ),
        (
            [0.5, 0.6],
            [0.4, 0.5],
            "its lead over ARS, +0.100, is not tested: 2 seeds cannot distinguish it from chance.",
        ),
        ([0.5, 0.6, 0.7], [0.58, 0.5, 0.6], "its lead over ARS, +0.040, is within the noise of 3 seeds."),
        (
            [0.5, 0.51, 0.52],
            [0.401, 0.41, 0.42],
            "its lead over ARS, +0.100, is more than the noise of 3 seeds.",
        ),
    ],
)
def test_the_lead_says_whether_it_is_more_than_noise(first, second, words):
    seen = Seen(study("lora", first), study("ars", second))
    assert words in seen.lead and "A single dataset allows no general conclusion." in seen.lead
    assert f"({len(first)} seed{'s' if len(first) > 1 else ''} each)" in seen.lead


def test_two_seeds_have_points_and_no_interval_on_the_first_screen():
    seen = Seen(study("lora", [0.603, 0.849]), study("ars", [0.4, 0.5]))
    assert "[" not in "".join(seen.winners)
    assert seen.winners[2] == "0.726 MCC seeds 0.603, 0.849 two seeds, no interval"
    assert seen.winners[5] == "unknown two seeds, no interval"


def test_an_error_is_better_when_lower():
    """No task is ranked by an error yet; what names a best one reads the metric's direction all the same."""
    made = [
        replace(
            run,
            metric="mse",
            family="own",
            task="own/x",
            study=f"own/x|opt-125m|{run.method}",
            test={"mse": score},
        )
        for method, score in (("lora", 0.2), ("ars", 0.3), ("adalora", 0.9))
        for run in study(method, [0.5] * 3, constant={"mse": 0.8})
    ]
    assert [row.method for row in leaderboard(made) if row.best] == ["lora"]
    outcomes = outcomes_of([RunResults(folder="run", trials=list(made))])
    best = best_pairs.best_of(outcomes, "own")
    assert [m for _, m in best.pairs] == ["lora"] and [m for _, m in best.second] == ["ars"]
    assert [m for _, m in best.left_out] == ["adalora"]
    assert significance.method_ranking(outcomes).names == ("lora", "ars", "adalora")
