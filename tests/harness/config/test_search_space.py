"""Search spaces: the paper's rows as first points, what a restriction does, and what a bad file is told."""

import csv
import random
import textwrap

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.config.search_space import Leaf, SearchSpace, always_fires, settings_of
from harness.config.search_space_file import read_space
from harness.core.errors import InputError
from harness.data.tasks import TASKS
from lingo.methods import METHODS
from lingo.trial import TrialConfig

S1_TASKS = {
    "Prom_all": "prom/prom_300_all",
    "Prom_notata": "prom/prom_300_notata",
    "Prom_tata": "prom/prom_300_tata",
}


class Draws:
    """Stands for an Optuna trial: uniform draws, refusing empty ranges as Optuna does."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def suggest_float(self, name, low, high, *, step=None, log=False):
        assert low <= high
        return self.random.uniform(low, high)

    def suggest_int(self, name, low, high, *, step=1, log=False):
        assert low <= high
        return self.random.randrange(low, high + 1, step)

    def suggest_categorical(self, name, choices):
        return self.random.choice(choices)


def space_file(tmp_path, text, method="ars"):
    path = tmp_path / "space.yaml"
    path.write_text(f"method: {method}\n" + textwrap.dedent(text))
    return path


def problems(method, path):
    with pytest.raises(InputError) as caught:
        read_space(method, path)
    return caught.value.problems


def test_first_points_are_the_papers_table_s1(shared):
    with (shared / "paper" / "table_s1_hyperparameters.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 14
    for row in rows:
        task = (
            "deepsea/histone"
            if row["dataset"] == "Histone"
            else S1_TASKS.get(row["dataset"], f"EMP/{row['dataset']}")
        )
        for method in ("adalora", "ars", "lingo"):
            space = read_space(method).for_task(task)
            expected = {
                "learning_rate": 3e-5,
                "b0": int(row["avg_b0"]),
                "bT": int(row["avg_bT"]),
                "delta_T": int(row["delta_T"]),
                "beta1": float(row["beta1"]),
                "beta2": float(row["beta2"]),
            }
            if METHODS[method].sampled:
                expected["p"] = float(row["p"])
            assert space.first_points[0] == expected, (task, method)
            assert space.fixed["final_finetune_ratio"] == float(row["final_finetune_ratio"])
            assert set(space.fixed["targets"]) == set(row["pruned_matrices"].split(";"))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task", ["EMP/H4", "mouse/2", "virus/covid", "quickstart/promoter"])
def test_every_draw_of_every_space_is_a_valid_trial(method, task):
    assert task in TASKS
    space = read_space(method).for_task(task).restrict(300, epochs=3)
    assert set(space.leaves) | set(space.fixed) <= settings_of(method)
    for seed in range(200):
        config = space.config(space.suggest(Draws(seed)), seed=0, epochs=3)
        assert config.problems(total_steps=300) == []
    for point in space.first_points:
        assert set(point) == set(space.leaves)
        assert space.config(point, seed=0, epochs=3).problems(total_steps=300) == []


@pytest.mark.parametrize(
    "method",
    [name for name, row in METHODS.items() if "learning_rate" in row.settings and row.needs_backbone],
)
def test_learning_rates_reach_what_small_backbones_need(method):
    space = read_space(method).for_task("mouse/2")
    rates = [point["learning_rate"] for point in space.first_points]
    assert rates[0] == 3e-5 and max(rates) >= 1e-3
    assert space.leaves["learning_rate"].high >= 1e-2


@given(st.data())
def test_b0_is_never_below_bT_whatever_they_are(data):
    def leaf(name):
        kind = data.draw(st.sampled_from(["int", "step", "choice", "fixed"]), name)
        values = sorted(data.draw(st.sets(st.integers(1, 20), min_size=2, max_size=5), name))
        if kind == "choice":
            return Leaf(type="choice", choices=tuple(values))
        step = 3 if kind == "step" else None
        return values[0] if kind == "fixed" else Leaf(type="int", low=values[0], high=values[-1], step=step)

    ends = {name: leaf(name) for name in ("b0", "bT")}
    leaves = {name: value for name, value in ends.items() if isinstance(value, Leaf)}
    space = SearchSpace(method="ars", leaves=leaves, fixed={n: v for n, v in ends.items() if n not in leaves})
    highest = ends["b0"] if "b0" in space.fixed else max(grid_values(ends["b0"]))
    lowest = ends["bT"] if "bT" in space.fixed else ends["bT"].least()
    assume(highest >= lowest)  # files are refused otherwise
    for seed in range(20):
        config = space.config(space.suggest(Draws(seed)), seed=0)
        assert config.b0 >= config.bT


def grid_values(leaf):
    return leaf.choices or range(leaf.low, leaf.high + 1, int(leaf.step or 1))


def test_delta_T_is_capped_and_said():
    space = read_space("ars").for_task("prom/prom_core_tata")
    restricted = space.restrict(1839)
    _, last = TrialConfig(method="ars", seed=0, final_finetune_ratio=0.15).budget_phase(1839)
    assert restricted.leaves["delta_T"].high == last - 1
    assert restricted.first_points[0]["delta_T"] == last - 1
    assert any("5000" in note and str(last - 1) in note for note in restricted.notes)
    assert space.notes == () and space.leaves["delta_T"].high == 5000
    assert space.restrict(100_000).notes == ()


@given(st.integers(0, 300), st.integers(1, 400))
def test_always_fires_is_the_largest_such_interval(first, length):
    last = first + length

    def fires(interval):
        return any(first < step < last for step in range(interval, last, interval))

    largest = always_fires(first, last)
    assert all(fires(interval) for interval in range(1, largest + 1))
    if 2 * first <= last - 1:
        assert not fires(largest + 1)


def test_a_delta_T_that_never_fires_is_refused_with_the_number_to_change(tmp_path):
    path = space_file(tmp_path, "space:\n  delta_T: 5000\n")
    with pytest.raises(InputError) as caught:
        read_space("ars", path).for_task("mouse/2").restrict(984)
    (line,) = caught.value.problems
    assert str(path) in line and "delta_T=5000" in line and "at most" in line


def test_range_and_choices_of_delta_T_keep_what_fires(tmp_path):
    path = space_file(tmp_path, "space:\n  delta_T: {type: choice, choices: [10, 100, 2000]}\n")
    space = read_space("ars", path).for_task("mouse/2").restrict(400)
    assert space.leaves["delta_T"].choices == (10, 100)
    path = space_file(tmp_path, "space:\n  delta_T: {type: int, low: 900, high: 5000}\n")
    with pytest.raises(InputError, match="delta_T=900"):
        read_space("ars", path).for_task("mouse/2").restrict(984)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("space:\n  delta_t: 5\n", 3, "unknown search-space key `delta_t`. Nearest known: delta_T"),
        ("space:\n  b0: {type: int, low: 9}\n", 3, "`b0` needs `high`."),
        ("space:\n  b0: {type: int, low: 9, high: 2}\n", 3, "`low` of `b0` must be at most `high`"),
        (
            "space:\n  p: {type: float, low: 0.0, high: 0.3, log: true}\n",
            3,
            "must be above 0 for a logarithmic",
        ),
        ("space:\n  b0: 4\n  bT: 8\n", 3, "`b0` must be at least `bT`, but got b0=4, bT=8."),
        ("space:\n  b0: {type: int, low: 2, high: 4}\n  bT: {type: int, low: 6, high: 8}\n", 3, "b0=4, bT=6"),
        ("space:\n  p: 1.5\n", 3, "`p` must be at least 0 and at most 1, but got 1.5."),
        ("space:\n  p: {type: float, low: 0.1, high: much}\n", 3, "`p` must be a number, but got 'much'."),
        ("space:\n  b0: {type: float, low: 1.0, high: 2.0}\n", 3, "`type` of `b0` must be int"),
        ("space:\n  b0: {type: int, low: 1, hihg: 2}\n", 3, "unknown key `hihg`. Nearest known: high"),
        ("space:\n  epochs: 3\n", 3, "`epochs` is given on the command line with --epochs"),
        ("space:\n  rank: 3\n", 3, "`rank` has no effect in ars"),
        ("space:\n  targets: [W_q, W_z]\n", 3, "`targets` must be names of the paper (W_q"),
        ("space:\n  b0: {type: int, low: 1\n", 4, "not valid YAML"),
        ("space: {b0: 12, bT: 6, b0: 4}\n", 2, "`b0` must occur once, but occurs twice"),
        ("space:\n  p: 0.1\nspace:\n  b0: 4\n", 4, "`space` must occur once"),
        ("space: {p: 2024-13-45}\n", None, "not valid YAML"),
        ("spaces: {}\n", None, "needs the keys `method` and `space`"),
        ("space: {}\nrows:\n  - tasks: ['*']\n    first_point: {b0: 2, bT: 3}\n", 5, "b0=2, bT=3"),
    ],
)
def test_bad_files_name_the_line(tmp_path, text, line, says):
    path = space_file(tmp_path, text)
    (problem,) = problems("ars", path)
    assert problem.startswith(f"{path}, line {line}: " if line else f"{path}: ")
    assert says in problem


def test_all_problems_of_a_file_at_once(tmp_path):
    found = problems("ars", space_file(tmp_path, "space:\n  bo: 3\n  p: 7\n  alpha: x\nrow: []\n"))
    assert len(found) == 4


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path):
    space = read_space(
        "lora", space_file(tmp_path, "space:\n  learning_rate: 3e-5\n", method="lora")
    ).for_task("x")
    assert space.fixed["learning_rate"] == 3e-5


def test_a_points_value_outside_the_space_is_clipped():
    assert Leaf(type="int", low=2, high=9, step=3).clip(100) == 8
    assert Leaf(type="float", low=0.5, high=0.9).clip(0.1) == 0.5
    assert Leaf(type="choice", choices=("a", "b")).clip("c") == "a"


def test_suggested_bT_never_exceeds_b0():
    space = read_space("adalora").for_task("EMP/H3")
    pairs = [(drawn["b0"], drawn["bT"]) for drawn in (space.suggest(Draws(seed)) for seed in range(300))]
    assert all(b0 >= bT for b0, bT in pairs) and len(set(pairs)) > 30


def test_pooling_is_searched_or_set_for_heads(tmp_path):
    """`--pooling` is one value for every head; a search space may have several. Probes search their own."""
    path = tmp_path / "lora.yaml"
    path.write_text(
        "method: lora\nspace:\n  learning_rate: 1.0e-3\n  pooling: {type: choice, choices: [auto, mean]}\n"
        "rows:\n  - tasks: ['*']\n    first_point: {pooling: mean}\n"
    )
    space = read_space("lora", path).for_task("mouse/2")
    assert space.leaves["pooling"].choices == ("auto", "mean")
    set_ = space.pooling("first")
    assert "pooling" not in set_.leaves and set_.fixed["pooling"] == "first" and "--pooling" in set_.notes[-1]
    assert set_.restrict(100).first_points in ((), ({},))
    for method in ("probe", "kmer_logreg"):
        other = read_space(method, None).for_task("mouse/2")
        assert other.pooling("first") == other


def test_a_pooling_that_no_head_reads_is_refused(tmp_path):
    path = tmp_path / "lora.yaml"
    path.write_text("method: lora\nspace:\n  pooling: {type: choice, choices: [auto, max]}\nrows: []\n")
    with pytest.raises(InputError, match="max"):
        read_space("lora", path).for_task("mouse/2").restrict(100)
