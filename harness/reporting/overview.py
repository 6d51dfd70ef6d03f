"""The first screen: what was compared, what won where, by how much, how sure, what it cost, what to distrust."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from harness.reporting import claims, health, marks, naming, stats
from harness.reporting.aggregates import complete_backbones, family_estimate, mean_baselines
from harness.reporting.content import (
    Block,
    Cell,
    Facts,
    Field,
    Missing,
    Note,
    Section,
    Table,
    count,
    duration,
    interval,
    number,
    signed,
)
from harness.reporting.cost import device_seconds, on_gpus
from harness.reporting.outcomes import Outcomes
from harness.reporting.paper_figures import means_picture
from harness.reporting.published import Published
from harness.reporting.run_folder import RunFolder
from harness.reporting.significance import method_ranking

Pair = tuple[str, str]
"""Backbone, method."""

FEW_TRIALS = 10
"""A search of fewer trials a study is called short."""


def section(runs: Sequence[RunFolder], outcomes: Outcomes, published: Published) -> Section:
    """All of it."""
    blocks: list[Block] = [Facts(items=_facts(runs, outcomes))]
    found = [best for family in outcomes.families if (best := best_of(outcomes, family)) is not None]
    if found:
        blocks += [_winners(outcomes, found), means_picture(outcomes, "overview", "Scores at a glance")]
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


# --- winners ----------------------------------------------------------------------------------------------


UNKNOWN = stats.Estimate(stats.NAN)


@dataclass(frozen=True)
class Best:
    """The best pair of a family.

    Attributes:
        family: Its name.
        tasks: Its datasets.
        pair, found: Backbone and method, and their mean over the datasets.
        second: The next best pair; `None` when there is one pair only.
        lead: Mean difference to it, with what the seeds leave open.
        wins: Datasets on which the best pair is above the second.
        baseline: Title and mean of the best simple baseline; `None` without one.
    """

    family: str
    tasks: tuple[str, ...]
    pair: Pair
    found: stats.Estimate
    second: Pair | None = None
    lead: stats.Estimate = UNKNOWN
    wins: int = 0
    baseline: tuple[str, float] | None = None


def best_of(outcomes: Outcomes, family: str) -> Best | None:
    """The pair of backbone and method with the best mean over all datasets of a family; `None` if none has them all."""
    tasks = outcomes.tasks_of(family)
    pairs = [
        (backbone, method)
        for backbone, method in product(outcomes.backbones, outcomes.methods)
        if backbone in complete_backbones(outcomes, family, method)
    ]
    if not pairs:
        return None
    ordered = sorted(pairs, key=lambda pair: -family_estimate(outcomes, tasks, *pair).mean)
    first = ordered[0]
    lines = mean_baselines(outcomes, tasks)
    made = Best(
        family,
        tuple(tasks),
        first,
        family_estimate(outcomes, tasks, *first),
        baseline=max(lines, key=lambda line: line[1], default=None),
    )
    if len(ordered) == 1:
        return made
    second = ordered[1]
    groups = [_seed_differences(outcomes, task, first, second) for task in tasks]
    means = zip(outcomes.means(tasks, *first), outcomes.means(tasks, *second), strict=True)
    return Best(
        *(made.family, made.tasks, made.pair, made.found),
        second=second,
        lead=stats.estimate(groups),
        wins=sum(x > y for x, y in means),
        baseline=made.baseline,
    )


def _seed_differences(outcomes: Outcomes, task: str, first: Pair, second: Pair) -> list[float]:
    a, b = outcomes.get(task, *first), outcomes.get(task, *second)
    if a is None or b is None:
        return []
    common = sorted(set(a.scores) & set(b.scores))
    return [a.scores[seed] - b.scores[seed] for seed in common] or [a.mean - b.mean]


def _winners(outcomes: Outcomes, found: Sequence[Best]) -> Table:
    rows: list[list[Field]] = []
    for best in found:
        metric = naming.metric_title(outcomes.metric_of(best.family))
        lines = tuple(filter(None, [interval(best.found.low, best.found.high)]))
        rows.append(
            [
                Cell(naming.family_title(best.family), lines=(_which(best.tasks),)),
                _pair(best.pair),
                Cell(f"{number(best.found.mean)} {metric}", "best", lines),
                "–" if best.second is None else _pair(best.second),
                _lead(best),
                _sure(best),
                "–" if best.baseline is None else _beside(best),
            ]
        )
    return Table(
        name="winners",
        title="What won where",
        header=[
            "datasets",
            "best",
            "mean score",
            "next best",
            "ahead by",
            "on other seeds too?",
            "beside the best simple baseline",
        ],
        rows=rows,
        text_columns=2,
        caption="The pair of backbone and method with the highest mean test score over a family, and the next best "
        "pair of all. In brackets 95 % intervals from the seeds. The best of many pairs is partly the luckiest.",
    )


def _which(tasks: Sequence[str]) -> str:
    return naming.task_title(tasks[0]) if len(tasks) == 1 else f"{len(tasks)} datasets"


def _pair(pair: Pair) -> str:
    return f"{naming.backbone_title(pair[0])} · {naming.method_title(pair[1])}"


def _lead(best: Best) -> Field:
    if best.second is None:
        return "–"
    text = interval(best.lead.low, best.lead.high)
    lines = [text] if text else []
    if len(best.tasks) > 1:
        lines.append(f"above on {best.wins} of {len(best.tasks)}")
    return Cell(signed(best.lead.mean), lines=tuple(lines))


def _sure(best: Best) -> Field:
    """Whether the lead holds over seeds."""
    if best.second is None:
        return "–"
    if best.lead.low != best.lead.low:
        return Cell("unknown", "muted", ("one seed",))
    return Cell("yes", "good") if best.lead.low > 0 else Cell("not sure", "bad")


def _beside(best: Best) -> Cell:
    assert best.baseline is not None
    title, score = best.baseline
    ahead = best.found.mean - score
    return Cell(signed(ahead), "" if ahead > 0 else "bad", (f"{title} {number(score)}",))


# --- lists ------------------------------------------------------------------------------------------------


def _certainty(outcomes: Outcomes, published: Published) -> list[str]:
    points = []
    ranks = method_ranking(outcomes)
    if ranks is not None and ranks.blocks >= 2:
        order = ", ".join(
            f"{naming.method_title(n)} {r:.2f}" for n, r in zip(ranks.names, ranks.ranks, strict=True)
        )
        points.append(
            f"Mean ranks over {ranks.blocks} (dataset, backbone) pairs: {order}; ranks that differ by less than "
            f"{number(ranks.critical, 2)} cannot be told apart (Nemenyi, 5 %)."
        )
    seeds = {len(o.scores) for o in outcomes.main}
    if seeds == {1}:
        points.append("One seed a study: nothing is known of the spread, so small differences mean nothing.")
    tally = claims.tally(outcomes, published)
    checked = sum(tally.values()) - tally["not measured"]
    if checked:
        said = ", ".join(f"{v} {tally[v]}" for v in claims.LOOKS if tally[v])
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
        points.append(
            f"{count(len(edges), 'winning value')} at the edge of its search range; a wider one may do better."
        )
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
    weak = [b for f in outcomes.families if (b := best_of(outcomes, f)) is not None and _weak(b)]
    if weak:
        names = _and([naming.family_title(b.family) for b in weak])
        points.append(
            f"On {names} no method beats the best simple baseline: a language model gains nothing there."
        )
    if any(env.get("git_dirty") for env, _ in health.environments([t for run in runs for t in run.trials])):
        points.append("Some results were made by code with uncommitted changes.")
    points += [problem for run in runs for problem in run.problems]
    return points or ["Nothing found: no marks, no failures, no missing runs, no collapsed models."]


def _weak(best: Best) -> bool:
    return best.baseline is not None and best.found.mean <= best.baseline[1]
