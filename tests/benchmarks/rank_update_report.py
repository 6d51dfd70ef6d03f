"""Tables of the experiment in `rank_update.py`: means, standard deviations and paired differences."""

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

REFERENCE = "p = 0"


def best_rate(runs: Sequence[Mapping[str, Any]]) -> float:
    """The learning rate with the highest mean dev MCC over the search runs."""
    scores = defaultdict(list)
    for run in runs:
        if run["stage"] == "search":
            scores[run["learning_rate"]].append(run["dev"][-1]["mcc"])
    return max(scores, key=lambda rate: float(np.mean(scores[rate])))


def write(out: Path, docs: Path, variants: Sequence[str]) -> int:
    """Write `rank_update.md` and `rank_update.json` from the files of runs in `out`."""
    records = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    if not records:
        print(f"{out} holds no runs; start this script without --write-docs first.", file=sys.stderr)
        return 2
    (docs / "rank_update.json").write_text(json.dumps(records, indent=1) + "\n")
    (docs / "rank_update.md").write_text(text(records, variants))
    print((docs / "rank_update.md").read_text())
    return 0


def text(records: Sequence[Mapping[str, Any]], variants: Sequence[str]) -> str:
    """The report as Markdown."""
    lines = _introduction(records[0])
    for record in records:
        lines += ["", f"## {record['about']['task']}", ""]
        lines += [*_search(record), "", *_finals(record, variants)]
    pooled = [_differences(record, variant) for variant in variants[1:] for record in records]
    if len(records) > 1 and all(len(each) for each in pooled):
        lines += ["", "## Both tasks", "", *_pooled(records, variants)]
    return "\n".join(lines) + "\n"


def _introduction(record: Mapping[str, Any]) -> list[str]:
    about = record["about"]
    settings = ", ".join(f"{name} {_plain(value)}" for name, value in about["settings"].items())
    p = max(values["p"] for values in about["variants"].values())
    return [
        "# Comparison of the `rank_update` variants",
        "",
        "Produced by `python -m tests.benchmarks.rank_update`, whose docstring describes the method; all runs are in "
        "[rank_update.json](rank_update.json).",
        "",
        f"Backbone {about['backbone']} (260,032 parameters, trained on English), {about['epochs']} epochs, "
        "dev split only, Matthews correlation after the last epoch. "
        f"Settings: {settings}. The three variants mask with p = {p:g}; `p = 0` masks nothing, which is "
        "AdaLoRA. Runs of one seed share initial values, data order and learning rate, so differences from "
        "`p = 0` are paired by seed. Intervals are 95 % (Student's t).",
    ]


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else f"{value}"


def _search(record: Mapping[str, Any]) -> list[str]:
    runs = [run for run in record["runs"] if run["stage"] == "search"]
    rates = sorted({run["learning_rate"] for run in runs})
    search = record["about"]["search"]
    lines = [
        f"Learning rate: dev MCC of {REFERENCE} after {search['epochs']} epochs, mean of seeds "
        f"{_plain(search['seeds'])}.",
        "",
        "| variant | " + " | ".join(f"{rate:g}" for rate in rates) + " |",
        "| --- |" + " ---: |" * len(rates),
    ]
    lines.append(_rates_row(REFERENCE, runs, rates))
    return [*lines, "", f"Used by all variants: {best_rate(runs):g}."]


def _rates_row(name: str, runs: Sequence[Mapping[str, Any]], rates: Sequence[float]) -> str:
    means = [_mean(r["dev"][-1]["mcc"] for r in runs if r["learning_rate"] == rate) for rate in rates]
    return f"| {name} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |"


def _finals(record: Mapping[str, Any], variants: Sequence[str]) -> list[str]:
    lines = [
        "| variant | seeds | MCC | sd | 95 % | AUROC | ranks kept | MCC − p = 0 | 95 % | p-value |",
        "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: | --- | ---: |",
    ]
    for variant in variants:
        runs = _runs(record, variant)
        if len(runs) < 2:
            continue
        mcc = np.array([run["dev"][-1]["mcc"] for run in runs])
        auroc = _mean(run["dev"][-1]["auroc"] for run in runs)
        kept = _mean(run["ranks_kept"] for run in runs)
        low, high = _interval(mcc)
        cells = [variant, f"{len(mcc)}", f"{mcc.mean():.4f}", f"{mcc.std(ddof=1):.4f}"]
        cells += [f"{low:.4f} to {high:.4f}", f"{auroc:.4f}", f"{kept:g}"]
        cells += _difference_cells(_differences(record, variant))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _difference_cells(differences: NDArray[np.float64]) -> list[str]:
    if len(differences) < 2 or not differences.any():
        return ["", "", ""]
    low, high = _interval(differences)
    p_value = stats.ttest_1samp(differences, 0).pvalue
    return [f"{differences.mean():+.4f}", f"{low:+.4f} to {high:+.4f}", f"{p_value:.2f}"]


def _pooled(records: Sequence[Mapping[str, Any]], variants: Sequence[str]) -> list[str]:
    lines = ["| variant | pairs | MCC − p = 0 | 95 % | p-value |", "| --- | ---: | ---: | --- | ---: |"]
    for variant in variants:
        differences = np.concatenate([_differences(record, variant) for record in records])
        if variant != REFERENCE:
            cells = [variant, f"{len(differences)}", *_difference_cells(differences)]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def _runs(record: Mapping[str, Any], variant: str) -> list[Mapping[str, Any]]:
    runs = [run for run in record["runs"] if run["stage"] == "final" and run["variant"] == variant]
    return sorted(runs, key=lambda run: run["seed"])


def _differences(record: Mapping[str, Any], variant: str) -> NDArray[np.float64]:
    """MCC of a variant minus that of p = 0, for each seed that has both."""
    ours, theirs = (
        {run["seed"]: run["dev"][-1]["mcc"] for run in _runs(record, name)} for name in (variant, REFERENCE)
    )
    return np.array([ours[seed] - theirs[seed] for seed in ours if seed in theirs])


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return float(values.mean() - half), float(values.mean() + half)


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))
