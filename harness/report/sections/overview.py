"""Overview: methods compared, best methods, significance, cost, caveats."""

import math
from collections.abc import Sequence

from harness.core.wording import duration
from harness.data.split_checks import UNDEFINED
from harness.report import best_pairs, naming
from harness.report.content import Block, KeyFigures, Missing, Note, Section, count, number, signed
from harness.report.outcomes import Outcome, Outcomes
from harness.report.paper import claims_table
from harness.report.paper.figures import means_picture
from harness.report.paper.published import Published
from harness.report.run_results import RunResults
from harness.report.sections import caveats, health, provenance
from harness.report.sections.cost import device_seconds, on_gpus
from harness.report.sections.significance import ALPHA, method_ranking, within_datasets
from harness.report.stats import Ranking
from harness.runs.shortcuts import NEAR, SHORTCUT
from lingo.methods.rules import RULES

NO_CAVEAT = "None: no caveats, no failures, no missing runs, no collapsed models."
FEW_TRIALS = 10
"""A search with fewer trials per study is called short."""


def section(runs: Sequence[RunResults], outcomes: Outcomes, published: Published) -> Section:
    """All of it."""
    blocks: list[Block] = [KeyFigures(items=_facts(runs, outcomes))]
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
            Missing(title="Best method per family", why="No method has a score on every dataset of a family.")
        )
    blocks.append(
        Note(text="Significance, and comparison with the paper:", points=_certainty(outcomes, published))
    )
    return Section(anchor="overview", title="At a glance", blocks=blocks)


def banner(runs: Sequence[RunResults], outcomes: Outcomes, most: int = 6) -> list[str]:
    """The caveats of the results, in one line each, for the top of the page; the section of caveats has all."""
    points = distrust(runs, outcomes)
    if points == [NO_CAVEAT]:
        return []
    more = [f"And {len(points) - most} more, see Caveats."] if len(points) > most else []
    return points[:most] + more


# --- the lead ---------------------------------------------------------------------------------------------


def lead(runs: Sequence[RunResults], outcomes: Outcomes) -> str:
    """Summary in one or two sentences."""
    done, wanted = finals(outcomes)
    if not any(run.trials for run in runs):
        return "This run has no results yet: no trial has ended."
    if not outcomes.main:
        if any(o.scores for o in outcomes if not o.baseline):
            marked = any(UNDEFINED in o.marks for o in outcomes)
            why = f" (caveat “{UNDEFINED}”: {caveats.meaning(UNDEFINED)})" if marked else ""
            said = f"No method has a defined test score, although {done} of {wanted} final runs are finished"
            return f"{said}{why.replace('.)', ')')}."
        return f"No final run has finished yet ({done} of {wanted}), so no test score is known."
    said = _won(outcomes)
    if done < wanted:
        said += f" Unfinished: {done} of {wanted} final runs are finished, and the missing ones may change the order."
    return said


def _won(outcomes: Outcomes) -> str:
    parts = [_order(outcomes), _above_baselines(outcomes), _shortcuts(outcomes), _left_out(outcomes)]
    return " ".join(filter(None, parts))


def _shortcuts(outcomes: Outcomes) -> str:
    """Tasks that a rule without biology answers about as well."""
    easy = list(dict.fromkeys(o.key.task for o in outcomes if SHORTCUT in o.marks))
    if not easy:
        return ""
    parts = []
    for task in easy:
        rules = [o for o in outcomes.baselines(task) if o.key.method in RULES and o.useful]
        rule = max(rules, key=lambda o: o.merit)
        title = naming.method_title(rule.key.method)
        parts.append(
            f"{naming.task_title(task)} ({title}: {naming.metric_title(rule.metric)} {number(rule.mean)})"
        )
    where = _and(parts)
    return (
        f"A rule without biology scores as high as the best method, within {NEAR}, on {where}: these scores do not "
        "show what a backbone knows of DNA."
    )


def _order(outcomes: Outcomes) -> str:
    """The compared methods, the best or tied ones, and whether the lead is significant."""
    what = (
        f"{count(len(outcomes.methods), 'method')} on {count(len(outcomes.backbones), 'backbone')} and "
        f"{count(len({o.key.task for o in outcomes.main}), 'dataset')} ({_seeds_each(outcomes)})"
    )
    if not any(o.useful for o in outcomes.main):
        nothing = f"None scores above a constant prediction on any dataset{_clause(outcomes)}: none is best."
        return f"Compared: {what}. {nothing}"
    ranks = method_ranking(outcomes)
    if ranks is None:
        (first, *others) = [o for o in outcomes.main if o.useful]
        if others:
            return f"Compared: {what}; no two methods ran on the same backbone and dataset, so they cannot be ranked."
        return f"Compared: {what}; {_score(first)}{_clause(outcomes)}, with no other method to compare."
    if ranks.blocks < 2:
        return f"Compared: {what}. {_of_one(outcomes, ranks)}"
    pairs = f"{ranks.blocks} pairs of dataset and backbone"
    tied = ranks.tied
    names = [naming.method_title(name) for name in tied]
    if len(tied) == len(ranks.names):
        text = f"Of {what}, {_and(names)} tie: each has mean rank {ranks.ranks[0]:.2f} over {pairs}"
        return f"{text}{_clause(outcomes)}.{_apart(outcomes, ranks)}"
    near = _near(ranks)
    if len(tied) + len(near) == len(ranks.names):
        few = (
            "too few to distinguish methods"
            if ranks.critical == math.inf
            else "within chance (Nemenyi's test, 5 %)"
        )
        text = f"Of {what}, none can be called best by its mean rank over {pairs}, {few}: {_ranks(ranks)}"
    elif len(tied) > 1:
        text = f"Of {what}, {_and(names)} tie for the best mean rank ({ranks.ranks[0]:.2f} over {pairs})"
    else:
        text = f"Of {what}, {names[0]} has the best mean rank ({ranks.ranks[0]:.2f} over {pairs})"
    return f"{text}{_clause(outcomes)}{_standing(ranks, near)}.{_apart(outcomes, ranks)}"


def _near(ranks: Ranking) -> list[str]:
    """The methods that cannot be distinguished from the best-ranked one."""
    behind = list(zip(ranks.names, ranks.ranks, strict=True))[len(ranks.tied) :]
    return [naming.method_title(name) for name, rank in behind if rank - ranks.ranks[0] < ranks.critical]


def _ranks(ranks: Ranking) -> str:
    both = zip(ranks.names, ranks.ranks, strict=True)
    return ", ".join(f"{naming.method_title(name)} {rank:.2f}" for name, rank in both)


def _clause(outcomes: Outcomes) -> str:
    beaten = _beaten(outcomes)
    return f", {beaten}" if beaten else ""


def _seeds_each(outcomes: Outcomes) -> str:
    fewest, most = (f(len(o.scores) for o in outcomes.main) for f in (min, max))
    return f"{count(most, 'seed')} each" if fewest == most else f"{fewest} to {most} seeds each"


def _score(outcome: Outcome) -> str:
    pair = best_pairs.pair_title((outcome.key.backbone, outcome.key.method))
    return f"{pair} scores {naming.metric_title(outcome.metric)} {number(outcome.mean)}"


def _of_one(outcomes: Outcomes, ranks: Ranking) -> str:
    """For a single pair of dataset and backbone: the best method by score, tested over the seeds."""
    where = next(
        (o.key.task, o.key.backbone) for o in outcomes.main if o.useful and o.key.method == ranks.names[0]
    )
    held = {o.key.method: o for o in outcomes.main if (o.key.task, o.key.backbone) == where}
    names = [naming.method_title(name) for name in ranks.tied]
    metric, score = naming.metric_title(held[ranks.names[0]].metric), number(held[ranks.names[0]].mean)
    if len(names) > 1:
        rest = "" if len(names) == len(ranks.names) else ", ahead of the others"
        tie = f"{_and(names)} tie with {metric} {score}{rest}{_clause(outcomes)}"
        return f"{tie}; a single dataset allows no general conclusion."
    second = held[ranks.names[1]]
    lead = f"{names[0]} scores highest of the methods ({metric} {score}){_clause(outcomes)}"
    if not second.useful:
        return f"{lead}; no other method is above a constant prediction. A single dataset allows no general conclusion."
    tests = [c for c in within_datasets(outcomes) if c.where == where and second.key.method in (c.a, c.b)]
    tests = [c for c in tests if c.p_holm == c.p_holm]
    resolved = bool(tests) and tests[0].p_holm < ALPHA
    seeds = min(len(held[ranks.names[0]].scores), len(second.scores))
    noise = (
        f"more than the noise of {seeds} seeds"
        if resolved
        else f"within the noise of {seeds} seeds"
        if tests
        else f"not tested: {count(seeds, 'seed')} cannot distinguish it from chance"
    )
    by = signed(held[ranks.names[0]].merit - second.merit)
    return (
        f"{lead}; its lead over {naming.method_title(ranks.names[1])}, {by}, is {noise}. A single dataset allows "
        "no general conclusion."
    )


def _apart(outcomes: Outcomes, ranks: Ranking) -> str:
    """Methods that are not in the ranking."""
    left = [naming.method_title(m) for m in outcomes.methods if m not in ranks.names]
    if not left:
        return ""
    return f" {_and(left)} did not run on all of them and {'is' if len(left) == 1 else 'are'} not ranked with them."


def _standing(ranks: Ranking, near: Sequence[str]) -> str:
    """The methods from which the best one differs significantly, as the end of a sentence."""
    tied = len(ranks.tied)
    if len(near) == len(ranks.names) - tied:
        return ""
    them = "it" if tied == 1 else "them"
    if near:
        return f"; {_and(near)} cannot be distinguished from {them} by ranks, the other methods can"
    return f"; all other methods differ from {them} in rank (Nemenyi's test, 5 %)"


def _reached(outcomes: Outcomes) -> tuple[dict[str, list[str]], int]:
    """(simple baselines and the datasets on which each reaches the best method, datasets that have a baseline)."""
    compared, reached = 0, dict[str, list[str]]()
    for task in dict.fromkeys(o.key.task for o in outcomes.main):
        compared += bool(outcomes.baselines(task))
        able = [o for o in outcomes.baselines(task) if o.useful]
        simple = max(able, key=lambda o: o.merit, default=None)
        mine = [o.merit for o in outcomes.main if o.key.task == task and o.useful]
        if simple is not None and simple.merit >= max(mine, default=-math.inf):
            reached.setdefault(simple.title, []).append(task)
    return reached, compared


def _beaten(outcomes: Outcomes) -> str:
    """Simple baselines that reach the methods, as the middle of a sentence; empty if none does."""
    reached, compared = _reached(outcomes)
    if not reached:
        return ""
    where = f" on {sum(map(len, reached.values()))} of {compared} datasets" if compared > 1 else ""
    kind = "baseline or control" if any(o.control for o in outcomes) else "baseline"
    return f"although a simple {kind} ({_and(list(reached))}) is at least as good as every method{where}"


def _above_baselines(outcomes: Outcomes) -> str:
    reached, compared = _reached(outcomes)
    if reached or not compared or not any(o.useful for o in outcomes.main):
        return ""
    where = f" on all {compared} datasets that have one" if compared > 1 else ""
    kinds = "simple baseline and every control" if any(o.control for o in outcomes) else "simple baseline"
    return f"The best method is above every {kinds}{where}."


def _left_out(outcomes: Outcomes) -> str:
    """Studies excluded from best."""
    fallen = [o for o in outcomes.main if o.is_collapsed]
    useless = [o for o in outcomes.main if not o.useful and not o.is_collapsed]
    undefined = [o for o in outcomes if o.scores and o.mean != o.mean]
    parts = [
        f"{_studies(held)} {words[0] if len(held) == 1 else words[1]}"
        for held, words in (
            (
                fallen,
                (
                    "predicts the same for every row",
                    "predict the same for every row",
                ),
            ),
            (useless, ("is not above a constant prediction", "are not above a constant prediction")),
            (undefined, ("has no defined test score", "have no defined test score")),
        )
        if held
    ]
    return f"Excluded from best: {'; '.join(parts)}." if parts else ""


def _studies(held: Sequence[Outcome]) -> str:
    names = [f"{naming.method_title(o.key.method)} on {naming.task_title(o.key.task)}" for o in held[:3]]
    more = f" and {len(held) - 3} more" if len(held) > 3 else ""
    return f"{count(len(held), 'study', 'studies')} ({', '.join(names)}{more})"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def finals(outcomes: Outcomes) -> tuple[int, int]:
    """(finished final runs, expected final runs)."""
    return sum(len(set(o.finals) & o.expected) for o in outcomes), sum(len(o.expected) for o in outcomes)


# --- numbers ----------------------------------------------------------------------------------------------


def _facts(runs: Sequence[RunResults], outcomes: Outcomes) -> list[tuple[str, str, str]]:
    trials = [trial for run in runs for trial in run.trials]
    done, wanted = finals(outcomes)
    failed = len(health.failures(runs))
    searched = sum(trial.stage == "search" for trial in trials)
    baselines = {o.key.method for o in outcomes if o.baseline and not o.control}
    controls = sum(o.control for o in outcomes)
    return [
        (
            "Compared",
            count(len(outcomes), "study", "studies"),
            f"{count(len(outcomes.tasks), 'dataset')} × {count(len(outcomes.backbones), 'backbone')} × "
            f"{count(len(outcomes.methods), 'method')}"
            + (f", {count(len(baselines), 'simple baseline')}" if baselines else "")
            + (f", {count(controls, 'control')}" if controls else ""),
        ),
        ("Final runs", f"{done:,} of {wanted:,}", _seeds(outcomes)),
        ("Search trials", f"{searched:,}", count(failed, "failure") if failed else "no failures"),
        _cost(runs, outcomes),
    ]


def _seeds(outcomes: Outcomes) -> str:
    most = max((len(outcome.expected) for outcome in outcomes), default=0)
    return f"{count(most, 'seed')} for each winner" if most else "no seeds planned"


def _cost(runs: Sequence[RunResults], outcomes: Outcomes) -> tuple[str, str, str]:
    """Device hours as reported by the runs, otherwise the sum over trials."""
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
        said = f"{hours:,.1f} GPU-hours" if hours >= 1 else f"{duration(hours * 3600)} of GPUs"
        return "Compute", said, line
    said = f"{used / 3600:,.1f} hours on CPUs" if used >= 7200 else f"{duration(used)} on CPUs"
    return "Compute", said, line or "sum of the wall times of all trials"


# --- lists ------------------------------------------------------------------------------------------------


def _certainty(outcomes: Outcomes, published: Published) -> list[str]:
    points = []
    ranks = method_ranking(outcomes)
    if ranks is not None and ranks.blocks >= 2:
        few = ranks.critical == math.inf
        points.append(
            f"Mean ranks over {count(ranks.blocks, '(dataset, backbone) pair')}: {_ranks(ranks)}; "
            + (
                "too few pairs to distinguish ranks."
                if few
                else f"ranks that differ by less than {number(ranks.critical, 2)} cannot be distinguished (Nemenyi, "
                "5 %)."
            )
        )
    seeds = {len(o.scores) for o in outcomes.main}
    if seeds == {1}:
        points.append(
            "One seed per study: the spread is unknown, so small differences cannot be interpreted."
        )
    tally = claims_table.tally(outcomes, published)
    checked = sum(tally.values()) - tally["not measured"]
    if checked:
        said = ", ".join(f"{v} {tally[v]}" for v in claims_table.LOOKS if tally[v])
        points.append(f"Of the paper's claims, {checked} were tested: {said}.")
    elif tally:
        points.append("None of the paper's claims can be tested with these backbones and datasets.")
    return points or ["No conclusion is possible yet."]


def distrust(runs: Sequence[RunResults], outcomes: Outcomes) -> list[str]:
    """One line per kind of caveat."""
    points = [
        f"Caveat “{mark}” on {count(counts.total(), 'record')}: {caveats.meaning(mark)}"
        for mark, counts in health.mark_counts(runs).items()
    ]
    lacking = health.incomplete(outcomes)
    if lacking:
        points.append(
            f"{count(len(lacking), 'study lacks', 'studies lack')} final runs; their means are over fewer seeds."
        )
    failed = health.failures(runs)
    if failed:
        points.append(f"{count(len(failed), 'trial')} failed; the table of failures gives the reasons.")
    collapsed = [o for o in outcomes if o.collapsed]
    if collapsed:
        points.append(
            f"{count(sum(len(o.collapsed) for o in collapsed), 'final model predicts', 'final models predict')} the "
            "same for every row (collapsed)."
        )
    edges = health.edges(runs, outcomes)
    if edges:
        many = count(len(edges), "winning value is", "winning values are")
        points.append(f"{many} at a bound of the search range; a wider range may give better scores.")
    if outcomes.main and not any(o.baseline and not o.control for o in outcomes):
        points.append(
            "No simple baseline was run, so the benefit of a language model is unknown; add kmer_logreg and "
            "onehot_cnn to --methods."
        )
    trials = [int(n) for run in runs if (n := run.settings.get("num_samples"))]
    if trials and min(trials) < FEW_TRIALS:
        points.append(
            f"Short searches: {count(min(trials), 'trial')} per study; methods with more hyper-parameters may be "
            "underestimated."
        )
    found = [b for f in outcomes.families if (b := best_pairs.best_of(outcomes, f)) is not None]
    weak = [b for b in found if b.baseline is not None and b.pairs and b.ahead <= 0]
    if weak:
        names = _and([naming.family_title(b.family) for b in weak])
        points.append(
            f"On {names} no method is above the best simple baseline: a language model has no benefit there."
        )
    if any(
        env.get("git_dirty") for env, _ in provenance.environments([t for run in runs for t in run.trials])
    ):
        points.append("Some results were produced by code with uncommitted changes.")
    if mixed := provenance.mixed_types(outcomes):
        points.append(mixed)
    points += [problem for run in runs for problem in run.problems]
    return points or [NO_CAVEAT]
