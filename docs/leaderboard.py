"""Draws `docs/leaderboard.svg`, the picture of the README, from the results table of a run.

python docs/leaderboard.py results/<run>/results.parquet
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import pyarrow.compute as pc
import pyarrow.parquet as pq
from matplotlib import pyplot as plt

from lingo.methods import METHODS

# Okabe and Ito's colours, which the colour-blind can tell apart.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00"]


def main() -> None:
    """One panel a task; one line a method with each seed as a dot and the mean as a bar."""
    table = pq.read_table(sys.argv[1])
    table = table.filter(pc.and_(pc.equal(table["stage"], "final"), pc.equal(table["status"], "finished")))
    rows = table.to_pylist()
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    plt.rcParams.update({"font.size": 9, "svg.fonttype": "path", "svg.hashsalt": "lingo"})
    figure, panels = plt.subplots(1, len(tasks), figsize=(3.7 * len(tasks), 2.4), sharey=True, squeeze=False)
    methods = [name for name in METHODS if any(row["method"] == name for row in rows)]
    for panel, task in zip(panels[0], tasks, strict=True):
        for place, name in enumerate(reversed(methods)):
            scores = [row["test_mcc"] for row in rows if (row["task"], row["method"]) == (task, name)]
            colour = COLOURS[methods.index(name) % len(COLOURS)]
            mean = sum(scores) / len(scores)
            panel.barh(place, mean, color=colour, alpha=0.35, height=0.62)
            panel.plot(scores, [place] * len(scores), "o", color=colour, markersize=4)
            panel.text(0.01, place, f"{mean:.3f}", va="center", fontsize=8)
        panel.set_yticks(range(len(methods)), [METHODS[name].title for name in reversed(methods)])
        panel.set_title(task, loc="left", fontsize=9)
        panel.set_xlabel("test MCC; dots are seeds, bars their mean")
        panel.set_xlim(left=0)
        panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(Path(__file__).with_name("leaderboard.svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
