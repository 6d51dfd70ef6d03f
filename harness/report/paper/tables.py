"""The paper's tables from these results: S2 and S3 (scores), 1 (tokenisations), S1 (hyper-parameters)."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.report import naming, stats
from harness.report.content import (
    Block,
    Cell,
    Field,
    Missing,
    Section,
    Table,
    amount,
    interval,
    number,
    signed,
)
from harness.report.outcomes import Outcome, Outcomes
from harness.report.paper.published import Published, parameter_count
from harness.runs.intervals import EQUAL, with_spread

NUMBERS = {"EMP": "Table S2", "prom_300": "Table S3"}
SETTINGS = {
    "b0": "avg_b0",
    "bT": "avg_bT",
    "final_finetune_ratio": "final_finetune_ratio",
    "delta_T": "delta_T",
    "beta1": "beta1",
    "beta2": "beta2",
    "targets": "pruned_matrices",
    "p": "p",
}
"""Settings of a trial and their columns in table S1."""


def section(outcomes: Outcomes, published: Published) -> Section:
    """All tables of scores and configurations."""
    blocks: list[Block] = [_scores(outcomes, published, family) for family in outcomes.families]
    blocks += _thresholds(outcomes)
    blocks += [_tokenizations(outcomes, published), _configurations(outcomes, published)]
    return Section(
        anchor="tables",
        title="Scores and the paper's tables",
        intro="Test scores of each study's winner, trained once per seed; the test split was read once per seed. Each "
        "cell has the mean ± standard deviation over seeds (with two seeds, both scores), the 95 % bootstrap interval "
        "over test rows and seeds (from three seeds on), and the paper's value, if any, with the difference from it. "
        "Bold: best method of the backbone; italic: second; ★: best of the column. Ties share these; scores that are "
        "collapsed, not above a constant prediction or equal to all others have none.",
        blocks=blocks,
    )


# --- S2, S3 -----------------------------------------------------------------------------------------------


def _scores(outcomes: Outcomes, published: Published, family: str) -> Block:
    tasks, title = outcomes.tasks_of(family), _title(outcomes, family)
    held = [o for o in outcomes.scored if o.family == family and o in _shown(outcomes)]
    if not held:
        return Missing(title=title, why="No final run of this family has finished yet.")
    lines = list(dict.fromkeys((o.key.backbone, o.key.method) for o in held))
    rows = [_line(outcomes, published, tasks, *line) for line in lines]
    return Table(
        name=f"scores_{family}",
        title=title,
        header=["study", "trained", *map(naming.task_title, tasks), *(["mean"] if len(tasks) > 1 else [])],
        rows=rows,
        caption=_caption(outcomes, family, held),
        data=[_record(outcome, published) for outcome in outcomes if outcome.family == family],
    )


def _shown(outcomes: Outcomes) -> list[Outcome]:
    return [*outcomes.main, *(o for o in outcomes.scored if o.baseline)]


def _title(outcomes: Outcomes, family: str) -> str:
    metric = naming.metric_title(outcomes.metric_of(family))
    head = f"{NUMBERS[family]}: " if family in NUMBERS else ""
    return f"{head}{naming.family_title(family)}, test {metric}"


def _caption(outcomes: Outcomes, family: str, held: Sequence[Outcome]) -> str:
    seeds = sorted({len(o.scores) for o in held})
    text = (
        f"Seeds: {seeds[0]}."
        if len(seeds) == 1
        else f"Seeds: {seeds[0]} to {seeds[-1]}; missing seeds are stated."
    )
    if family == "deepsea":
        text += " The paper has no table for this family; its text states a macro AUC for three pairs."
    elif family not in naming.PUBLISHED_METRIC:
        text += " The paper does not measure this family."
    if family == "prom_300" and outcomes.metric_of(family) == "auroc":
        text += " Configurations were selected by dev MCC; AUC is shown because the paper reports it."
    if any(o.marks for o in held):
        marks = dict.fromkeys(mark for o in held for mark in o.marks)
        text += f" Caveats: {', '.join(marks)} (explained below)."
    return text


def _line(
    outcomes: Outcomes, published: Published, tasks: Sequence[str], backbone: str, method: str
) -> list[Field]:
    found = [outcomes.get(task, backbone, method) for task in tasks]
    known = [outcome for outcome in found if outcome is not None]
    first: list[Field] = [
        study_title(known[0]),
        _parameters(known, published),
    ]
    fields: list[Field] = [
        Cell("–", "muted") if outcome is None else _score(outcome, outcomes, published) for outcome in found
    ]
    return first + fields + ([_mean(outcomes, tasks, backbone, method, published)] if len(tasks) > 1 else [])


def study_title(outcome: Outcome) -> str:
    """`OPT-125M · Lingo`; a baseline by its name alone."""
    if outcome.control:
        return f"control {outcome.title}"
    method = naming.method_title(outcome.key.method)
    return (
        f"baseline {method}"
        if outcome.baseline
        else f"{naming.backbone_title(outcome.key.backbone)} · {method}"
    )


def _parameters(known: Sequence[Outcome], published: Published) -> Cell:
    counts = [o.parameters for o in known if o.parameters == o.parameters]
    printed = published.parameters.get(_paper_pair(known[0]))
    ours = "–" if not counts else amount(counts[0] if max(counts) == min(counts) else stats.mean(counts))
    return Cell(ours, lines=(f"paper {printed}",) if printed else ())


def _paper_pair(outcome: Outcome) -> tuple[str, str]:
    return naming.paper_backbone(outcome.key.backbone) or "", outcome.key.method


def published_score(outcome: Outcome, published: Published) -> float:
    """The paper's value of a study; NaN where it has none or in another metric or tokenisation."""
    dataset = naming.PAPER_DATASETS.get(outcome.key.task, "")
    if outcome.key.tokenization != "bbpe" or outcome.metric != naming.PUBLISHED_METRIC.get(outcome.family):
        return stats.NAN
    return published.scores.get((*_paper_pair(outcome), dataset), stats.NAN)


def _score(outcome: Outcome, outcomes: Outcomes, published: Published) -> Cell:
    lines = []
    if text := interval(*outcome.bootstrap):
        lines.append(text)
    paper = published_score(outcome, published)
    if paper == paper:
        lines.append(f"paper {number(paper)} ({signed(outcome.mean - paper)})")
    if not outcome.complete:
        lines.append(f"{len(outcome.scores)} of {len(outcome.expected)} seeds")
    if outcome.collapsed:
        lines.append(f"collapsed: seed {', '.join(map(str, outcome.collapsed))}")
    elif not outcome.useful:
        lines.append("not above a constant prediction")
    place = _place(outcome, outcomes)
    star = " ★" if _top(outcome, outcomes) else ""
    return Cell(with_spread(outcome.values) + star, ("", "best", "second")[place], tuple(lines))


def _rivals(outcome: Outcome, outcomes: Outcomes) -> list[Outcome]:
    return [o for o in _shown(outcomes) if o.key.task == outcome.key.task]


def _top(outcome: Outcome, outcomes: Outcomes) -> bool:
    """Whether nothing of use is better, and something is worse: where all are equal, none is the best."""
    rivals = _rivals(outcome, outcomes)
    return (
        outcome.useful
        and not any(_above(o, outcome) for o in rivals)
        and any(_above(outcome, o) for o in rivals)
    )


def _above(one: Outcome, other: Outcome) -> bool:
    """Whether `one` is of use and better than `other`, by its mean or because that is of no use."""
    return one.useful and (not other.useful or one.merit > other.merit + EQUAL)


def _place(outcome: Outcome, outcomes: Outcomes) -> int:
    """1 for the best of its backbone, 2 for the second, else 0; 0 where nothing is worse, and for what is of no use."""
    rivals = [o for o in _rivals(outcome, outcomes) if o.key.backbone == outcome.key.backbone]
    above = sum(_above(other, outcome) for other in rivals)
    if above > 1 or not outcome.useful or outcome.baseline:
        return 0
    return above + 1 if above or any(_above(outcome, other) for other in rivals) else 0


def _mean(outcomes: Outcomes, tasks: Sequence[str], backbone: str, method: str, published: Published) -> Cell:
    means = outcomes.means(tasks, backbone, method)
    there = [value for value in means if value == value]
    if len(there) < len(tasks):
        return Cell("–", "muted", (f"{len(there)} of {len(tasks)}",))
    papers = [
        published_score(outcome, published)
        for task in tasks
        if (outcome := outcomes.get(task, backbone, method)) is not None
    ]
    paper = stats.mean(papers)
    lines = (f"paper {number(paper)} ({signed(stats.mean(there) - paper)})",) if paper == paper else ()
    return Cell(number(stats.mean(there)), lines=lines)


def _record(outcome: Outcome, published: Published) -> dict[str, Any]:
    paper = published_score(outcome, published)
    low, high = outcome.interval
    rows_low, rows_high = outcome.bootstrap
    printed = published.parameters.get(_paper_pair(outcome))
    return {
        "family": outcome.family,
        "task": outcome.key.task,
        "backbone": outcome.key.backbone,
        "method": outcome.key.method,
        "tokenization": outcome.key.tokenization,
        "metric": outcome.metric,
        "seeds": len(outcome.scores),
        "seeds_planned": len(outcome.expected),
        "mean": outcome.mean,
        "sd": outcome.sd,
        "seeds_low": low,
        "seeds_high": high,
        "bootstrap_low": rows_low,
        "bootstrap_high": rows_high,
        "trained_parameters": outcome.parameters,
        "published": paper,
        "difference": outcome.mean - paper,
        "published_parameters": parameter_count(printed) if printed else stats.NAN,
        "collapsed_seeds": len(outcome.collapsed),
        "constant_prediction": outcome.constant_level,
        "above_constant": outcome.useful,
        "failed": outcome.failed,
        "marks": "; ".join(outcome.marks),
    }


# --- 1 ----------------------------------------------------------------------------------------------------


def _tokenizations(outcomes: Outcomes, published: Published) -> Block:
    title = "Table 1: tokenisations"
    held = [o for o in outcomes.scored if not o.baseline]
    schemes: dict[tuple[str, str, str], set[str]] = {}
    for outcome in held:
        schemes.setdefault((outcome.key.task, outcome.key.backbone, outcome.key.method), set()).add(
            outcome.key.tokenization
        )
    several = [outcome for outcome in held if len(schemes[_study(outcome)]) > 1]
    if not several:
        here = ", ".join(sorted({o.key.tokenization for o in held})) or "no final run"
        return Missing(
            title=title,
            why=f"Requires the same study with two tokenisations; these results have {here}. Run again with "
            "--tokenization one_hot and report both folders: report RUN OTHER_RUN.",
        )
    tasks = [task for task in outcomes.tasks if any(o.key.task == task for o in several)]
    lines = list(dict.fromkeys((o.key.backbone, o.key.method, o.key.tokenization) for o in several))
    rows = [_token_line(several, published, tasks, line) for line in lines]
    return Table(
        name="table_1_tokenizations",
        title=title,
        header=["backbone", "method", "tokenisation", *map(naming.task_title, tasks)],
        rows=rows,
        text_columns=3,
        caption="bbpe: the backbone's own tokenizer; one_hot: one token per nucleotide. The paper's values are those "
        "of Lingo.",
        data=[_record(outcome, published) for outcome in several],
    )


def _study(outcome: Outcome) -> tuple[str, str, str]:
    return outcome.key.task, outcome.key.backbone, outcome.key.method


def _token_line(
    several: Sequence[Outcome], published: Published, tasks: Sequence[str], line: tuple[str, str, str]
) -> list[Field]:
    backbone, method, scheme = line
    fields: list[Field] = [naming.backbone_title(backbone), naming.method_title(method), scheme]
    for task in tasks:
        mine = [o for o in several if (*_study(o), o.key.tokenization) == (task, backbone, method, scheme)]
        if not mine:
            fields.append(Cell("–", "muted"))
            continue
        others = [o for o in several if _study(o) == (task, backbone, method)]
        paper = _published_token(mine[0], published)
        lines = (f"paper {number(paper)} ({signed(mine[0].mean - paper)})",) if paper == paper else ()
        best = not any(_above(o, mine[0]) for o in others) and any(_above(mine[0], o) for o in others)
        fields.append(Cell(with_spread(mine[0].values), "best" if best else "", lines))
    return fields


def _published_token(outcome: Outcome, published: Published) -> float:
    if outcome.key.method != "lingo" or outcome.metric != "auroc":
        return stats.NAN
    backbone, dataset = _paper_pair(outcome)[0], naming.PAPER_DATASETS.get(outcome.key.task, "")
    return published.tokenizations.get((backbone, outcome.key.tokenization, dataset), stats.NAN)


# --- thresholds -------------------------------------------------------------------------------------------


def _thresholds(outcomes: Outcomes) -> list[Block]:
    """Of the studies whose thresholds were chosen on dev: what that changed."""
    rows, data = [], []
    for outcome in outcomes.scored:
        moved = [facts for facts in outcome.facts.values() if "threshold" in facts]
        if not moved:
            continue
        metric = outcome.metric
        half = stats.mean(
            [facts.get("at_half", {}).get(metric, outcome.scores[s]) for s, facts in outcome.facts.items()]
        )
        found = [value for facts in moved for value in facts["threshold"]]
        key = dict(zip(("task", "backbone", "method"), _study(outcome), strict=True))
        data.append(
            key | {"metric": metric, "thresholds": json.dumps(found), "score": outcome.mean, "at_half": half}
        )
        rows.append(
            [
                naming.task_title(outcome.key.task),
                naming.backbone_title(outcome.key.backbone),
                naming.method_title(outcome.key.method),
                f"{min(found):.3f} to {max(found):.3f}",
                f"{number(outcome.mean)} {naming.metric_title(metric)}",
                number(half),
                signed(outcome.mean - half),
            ]
        )
    if not rows:
        return []
    return [
        Table(
            name="thresholds",
            title="Scores with the threshold of dev, and at 0.5",
            header=["task", "backbone", "method", "thresholds", "score", "at 0.5", "difference"],
            rows=rows,
            text_columns=3,
            caption="The scores above are with thresholds chosen on dev (`--threshold dev`). Thresholds: the lowest "
            "and the highest over seeds and labels. AUROC and the loss do not depend on them.",
            data=data,
        )
    ]


# --- S1 ---------------------------------------------------------------------------------------------------


def _configurations(outcomes: Outcomes, published: Published) -> Block:
    title = "Table S1: the best configurations and the paper's"
    held = [o for o in outcomes if o.finals and not o.baseline]
    if not held:
        return Missing(title=title, why="No study has a winner yet.")
    rows, data = [], []
    for outcome in held:
        config = next(iter(outcome.finals.values())).config
        printed = published.hyperparameters.get(naming.PAPER_DATASETS.get(outcome.key.task, ""), {})
        paper = dict(_printed(printed)) if outcome.key.method in naming.ADAPTED[1:] else {}
        if outcome.key.method == "adalora":
            paper.pop("p", None)
        rows.append(_config_line(outcome, config, paper))
        data.append(_config_record(outcome, config, paper))
    return Table(
        name="table_s1_configurations",
        title=title,
        header=["task", "backbone", "method", "learning rate", "rank", *SETTINGS],
        rows=rows,
        text_columns=3,
        caption="The winner of each study by dev score; below a value, that of table S1 for the dataset if it "
        "differs. The paper's learning rate is 3e-5 and its LoRA rank 8 throughout (section 4.4).",
        data=data,
        limit=40,
        folded=True,
    )


def _printed(row: Any) -> Iterator[tuple[str, Any]]:
    for name, column in SETTINGS.items():
        text = row.get(column)
        if text:
            yield name, sorted(text.split(";")) if name == "targets" else float(text)


def _config_line(outcome: Outcome, config: Mapping[str, Any], paper: dict[str, Any]) -> list[Field]:
    rate = config.get("learning_rate")
    rank = config.get("rank") if outcome.key.method == "lora" else None
    paper_rank = ("paper 8",) if rank not in (None, 8) else ()
    fields: list[Field] = [
        naming.task_title(outcome.key.task),
        naming.backbone_title(outcome.key.backbone),
        naming.method_title(outcome.key.method),
        "–" if rate is None else Cell(f"{rate:.2g}", lines=("paper 3e-05",) if rate != 3e-5 else ()),
        Cell(_shown_value(rank), lines=paper_rank),
    ]
    return fields + [_setting(name, config.get(name), paper.get(name)) for name in SETTINGS]


def _setting(name: str, ours: Any, paper: Any) -> Field:
    same = (
        paper is None
        or ours is None
        or (sorted(ours) == paper if name == "targets" else float(ours) == paper)
    )
    return Cell(_shown_value(ours), lines=() if same else (f"paper {_shown_value(paper)}",))


def _shown_value(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list | tuple):
        return " ".join(name.removeprefix("W_") for name in value)
    return f"{value:.3g}" if isinstance(value, float) and not value.is_integer() else f"{value:.0f}"


def _config_record(outcome: Outcome, config: Mapping[str, Any], paper: dict[str, Any]) -> Mapping[str, Any]:
    record: dict[str, Any] = dict(zip(("task", "backbone", "method"), _study(outcome), strict=True))
    record["learning_rate"] = config.get("learning_rate")
    record["rank"] = config.get("rank")
    for name in SETTINGS:
        ours, printed = config.get(name), paper.get(name)
        record[name] = ";".join(ours) if isinstance(ours, list | tuple) else ours
        record[f"published_{name}"] = ";".join(printed) if isinstance(printed, list) else printed
    return record
