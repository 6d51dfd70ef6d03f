"""The first screen: what was compared, what won where, by how much, how sure, what it cost, what to distrust."""

import math
from collections.abc import Sequence

from harness.reporting import best_pairs, claims_table, health, marks, naming, provenance
from harness.reporting.content import (
    Block,
    Facts,
    Missing,
    Note,
    Section,
    count,
    duration,
    number,
)
from harness.reporting.cost import device_seconds, on_gpus
from harness.reporting.outcomes import Outcomes
from harness.reporting.paper_figures import means_picture
from harness.reporting.published import Published
from harness.reporting.run_folder import RunFolder
from harness.reporting.significance import method_ranking

FEW_TRIALS = 10
"""A search of fewer trials a study is called short."""


def section(runs: Sequence[RunFolder], outcomes: Outcomes, published: Published) -> Section:
    """All of it."""
    blocks: list[Block] = [Facts(items=_facts(runs, outcomes))]
    found = [
        best for family in outcomes.families if (best := best_pairs.best_of(outcomes, family)) is not None
    ]
    if found:
        blocks += [
            best_pairs.table(outcomes, found),
            means_picture(outcomes, "overview", "Scores at a glance"),
        ]
    else:
        blocks.append(
            Missing(title="Which method won", why="No method has finished a whole family of datasets yet.")
        )
    blocks.append(Note(text="How sure, and beside the paper:", points=_certainty(outcomes, published)))
    blocks.append(Note(text="What to distrust (details below):", points=distrust(runs, outcomes)))
    return Section(anchor="overview", title="At a glance", blocks=blocks)


# --- the lead ---------------------------------------------------------------------------------------------


def lead(runs: Sequence[RunFolder], outcomes: Outcomes) -> str:
    """The answer in a sentence or two."""
    done, wanted = finals(outcomes)
    if not any(run.trials for run in runs):
        return "This run has no results yet: not a single trial has ended."
    if not outcomes.main:
        return f"No final run has finished yet ({done} of {wanted}), so no test score is known."
    said = _won(outcomes)
    if done < wanted:
        said += (
            f" Unfinished: {done} of {wanted} final runs are there, and what is missing may change the order."
        )
    return said


def _won(outcomes: Outcomes) -> str:
    what = (
        f"{count(len(outcomes.methods), 'method')} on {count(len(outcomes.backbones), 'backbone')} and "
        f"{count(len({o.key.task for o in outcomes.main}), 'dataset')}"
    )
    ranks = method_ranking(outcomes)
    if ranks is None:
        return f"Compared: {what}."
    first = naming.method_title(ranks.names[0])
    if ranks.blocks < 2:
        return f"Compared: {what}. {first} scores highest; a single dataset says little about others."
    text = f"Of {what}, {first} has the best mean rank ({ranks.ranks[0]:.1f} over {ranks.blocks} pairs)"
    near = [
        naming.method_title(name)
        for name, rank in zip(ranks.names[1:], ranks.ranks[1:], strict=True)
        if rank - ranks.ranks[0] < ranks.critical
    ]
    left = [naming.method_title(m) for m in outcomes.methods if m not in ranks.names]
    apart = (
        f" {_and(left)} did not run on all of them and {'is' if len(left) == 1 else 'are'} ranked below."
        if left
        else ""
    )
    return f"{_standing(text, near, len(ranks.names))}{apart}"


def _standing(text: str, near: Sequence[str], ranked: int) -> str:
    if len(near) == ranked - 1:
        return f"{text}, but ranks over so few pairs cannot tell the methods apart."
    if near:
        return f"{text}; {_and(near)} cannot be told apart from it by ranks, the other methods can."
    return f"{text}, clearly apart from every other method."


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def finals(outcomes: Outcomes) -> tuple[int, int]:
    """(final runs that are there, final runs that should be)."""
    return sum(len(set(o.finals) & o.expected) for o in outcomes), sum(len(o.expected) for o in outcomes)


# --- numbers ----------------------------------------------------------------------------------------------


def _facts(runs: Sequence[RunFolder], outcomes: Outcomes) -> list[tuple[str, str, str]]:
    trials = [trial for run in runs for trial in run.trials]
    done, wanted = finals(outcomes)
    failed = len(health.failures(runs))
    searched = sum(trial.stage == "search" for trial in trials)
    baselines = {o.key.method for o in outcomes if o.baseline}
    return [
        (
            "Compared",
            count(len(outcomes), "study", "studies"),
            f"{count(len(outcomes.tasks), 'dataset')} × {count(len(outcomes.backbones), 'backbone')} × "
            f"{count(len(outcomes.methods), 'method')}"
            + (f", {count(len(baselines), 'simple baseline')}" if baselines else ""),
        ),
        ("Final runs", f"{done:,} of {wanted:,}", _seeds(outcomes)),
        ("Search trials", f"{searched:,}", count(failed, "failure") if failed else "no failures"),
        _cost(runs, outcomes),
    ]


def _seeds(outcomes: Outcomes) -> str:
    most = max((len(outcome.expected) for outcome in outcomes), default=0)
    return f"{count(most, 'seed')} for each winner" if most else "no seeds planned"


def _cost(runs: Sequence[RunFolder], outcomes: Outcomes) -> tuple[str, str, str]:
    """Device hours as the runs add them up themselves, else as the sum over trials."""
    told = [run.search.get("gpu_hours") for run in runs]
    used = sum(device_seconds(t.facts, t.seconds) for run in runs for t in run.trials)
    wall = sum(float(run.search.get("wall_s") or 0.0) for run in runs)
    money = sum(float(run.search.get("cost") or 0.0) for run in runs)
    line = ", ".join(
        [
            *([f"{duration(wall)} from start to end"] if wall else []),
            *([f"cost {money:,.2f}"] if money else []),
        ]
    )
    if on_gpus(outcomes):
        hours = sum(float(h) for h in told if h) if any(told) else used / 3600
        return "Compute", f"{hours:,.1f} GPU-hours", line
    return "Compute", f"{used / 3600:,.1f} hours on CPUs", line or "wall time of all trials added up"


# --- lists ------------------------------------------------------------------------------------------------


def _certainty(outcomes: Outcomes, published: Published) -> list[str]:
    points = []
    ranks = method_ranking(outcomes)
    if ranks is not None and ranks.blocks >= 2:
        order = ", ".join(
            f"{naming.method_title(n)} {r:.2f}" for n, r in zip(ranks.names, ranks.ranks, strict=True)
        )
        few = ranks.critical == math.inf
        points.append(
            f"Mean ranks over {count(ranks.blocks, '(dataset, backbone) pair')}: {order}; "
            + (
                "too few pairs to tell ranks apart."
                if few
                else f"ranks that differ by less than {number(ranks.critical, 2)} cannot be told apart (Nemenyi, 5 %)."
            )
        )
    seeds = {len(o.scores) for o in outcomes.main}
    if seeds == {1}:
        points.append("One seed a study: nothing is known of the spread, so small differences mean nothing.")
    tally = claims_table.tally(outcomes, published)
    checked = sum(tally.values()) - tally["not measured"]
    if checked:
        said = ", ".join(f"{v} {tally[v]}" for v in claims_table.LOOKS if tally[v])
        points.append(f"Of the paper's claims {checked} could be checked: {said}.")
    elif tally:
        points.append("None of the paper's claims can be checked with these backbones and datasets.")
    return points or ["Nothing can be said yet."]


def distrust(runs: Sequence[RunFolder], outcomes: Outcomes) -> list[str]:
    """One line for each kind of trouble."""
    points = [
        f"Mark “{mark}” on {count(counts.total(), 'record')}: {marks.meaning(mark)}"
        for mark, counts in health.mark_counts(runs).items()
    ]
    lacking = health.incomplete(outcomes)
    if lacking:
        points.append(
            f"{count(len(lacking), 'study lacks', 'studies lack')} final runs; their means are of fewer seeds."
        )
    failed = health.failures(runs)
    if failed:
        points.append(f"{count(len(failed), 'trial')} failed; the table of failures says why.")
    collapsed = [o for o in outcomes if o.collapsed]
    if collapsed:
        points.append(
            f"{count(sum(len(o.collapsed) for o in collapsed), 'final model')} predict a single class."
        )
    edges = health.edges(runs, outcomes)
    if edges:
        many = count(len(edges), "winning value stands", "winning values stand")
        points.append(f"{many} at the edge of the search range; a wider one may do better.")
    if outcomes.main and not any(o.baseline for o in outcomes):
        points.append(
            "No simple baseline was run, so nobody knows what a language model adds; --methods with kmer_logreg and "
            "onehot_cnn runs two."
        )
    trials = [int(n) for run in runs if (n := run.settings.get("num_samples"))]
    if trials and min(trials) < FEW_TRIALS:
        points.append(
            f"Short searches: {count(min(trials), 'trial')} a study; a method with more to tune may be undersold."
        )
    found = [b for f in outcomes.families if (b := best_pairs.best_of(outcomes, f)) is not None]
    weak = [b for b in found if b.baseline is not None and b.found.mean <= b.baseline[1]]
    if weak:
        names = _and([naming.family_title(b.family) for b in weak])
        points.append(
            f"On {names} no method beats the best simple baseline: a language model gains nothing there."
        )
    if any(
        env.get("git_dirty") for env, _ in provenance.environments([t for run in runs for t in run.trials])
    ):
        points.append("Some results were made by code with uncommitted changes.")
    points += [problem for run in runs for problem in run.problems]
    return points or ["Nothing found: no marks, no failures, no missing runs, no collapsed models."]
