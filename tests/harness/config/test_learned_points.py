"""First points from earlier runs: which they are, where they are kept and said, and what is refused."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.cli.options import settings
from harness.config.build import build, restore
from harness.config.learned_points import Told, learned, origin_of, portfolio, with_learned
from harness.config.plan import plan
from harness.config.search_space import Leaf, SearchSpace
from harness.config.values import Learned
from harness.core.errors import InputError
from harness.pipeline.prepare import prepare_studies
from harness.runs.layout import RunFolder, file_name
from harness.runs.record import Record

TASKS = ("quickstart/promoter", "quickstart/motif_pair")


def record(task, number, score, *, method="lora", status="finished", stage="search", **config):
    values = {"learning_rate": 10.0 ** -(2 + number % 4), "rank": 4, "targets": ["W_q"], **config}
    study = f"{task}|quickstart-opt|{method}"
    return Record(
        id=f"{study}/{stage}-{number}",
        benchmark="x",
        study=study,
        task=task,
        family="f",
        backbone="quickstart-opt",
        method=method,
        metric="mcc",
        stage=stage,
        trial=number if stage == "search" else None,
        seed=0,
        status=status,
        config={"method": method, "seed": 0, "epochs": 2, **values},
        dev={"mcc": score},
        test={"mcc": 1.0} if stage == "final" else None,
    )


def written(out, *records):
    RunFolder(out).records.mkdir(parents=True)
    for one in records:
        (RunFolder(out).records / file_name(one.id)).write_text(one.to_json())
    return out


def searched(out, *more):
    """A run of two tasks, which like other learning rates: of trial 1, and of trial 2."""
    scores = {TASKS[0]: (0.1, 0.9, 0.2, 0.0), TASKS[1]: (0.0, 0.1, 0.8, 0.1)}
    trials = [record(task, n, score) for task, row in scores.items() for n, score in enumerate(row)]
    return written(out, *trials, *more)


def test_a_portfolio_begins_with_what_does_well_on_all_and_then_covers_what_it_lacks():
    def study(best):
        return [Told({"x": x / 10}, -abs(x / 10 - best)) for x in range(11)]

    (near,) = portfolio([study(0.8), study(0.8)], 1)
    assert abs(near["x"] - 0.8) <= 0.2
    first, second = portfolio([study(0.0), study(1.0), study(0.0)], 4)  # no third one helps
    assert first["x"] <= 0.2 and second["x"] >= 0.8


def test_a_portfolio_reads_order_and_not_scale():
    rng = np.random.default_rng(0)
    draws = [[(10 ** rng.uniform(-5, -2), float(rng.normal())) for _ in range(20)] for _ in range(3)]
    plain = portfolio([[Told({"x": x}, y) for x, y in study] for study in draws])
    other = portfolio(
        [[Told({"x": np.log(x)}, 7 * y - n) for x, y in study] for n, study in enumerate(draws)]
    )
    assert [np.log(point["x"]) for point in plain] == [point["x"] for point in other]
    assert 2 <= len(plain) <= 4


def test_a_trial_that_was_stopped_tells_what_is_bad_and_is_not_proposed():
    study = [Told({"x": 0}, 0.5), Told({"x": 1}, 0.9, whole=False)]
    assert portfolio([study]) == [{"x": 0}]


def test_a_run_teaches_its_dev_scores_and_no_final_run(tmp_path):
    far = [record(TASKS[0], 9, 0.0, stage="final", learning_rate=1.0), record(TASKS[0], 8, float("nan"))]
    failed = record(TASKS[0], 7, 0.99, status="failed", learning_rate=0.5)
    (found,) = learned([searched(tmp_path / "before", *far, failed)])
    assert (found.backbone, found.method, found.runs) == ("quickstart-opt", "lora", ("before",))
    assert found.tasks == tuple(sorted(TASKS))
    rates = [point["learning_rate"] for point in found.points]
    assert set(rates[:2]) == {1e-3, 1e-4} and 1e-2 not in rates
    assert all({"seed", "epochs", "method"}.isdisjoint(point) for point in found.points)


@pytest.mark.parametrize("which", ["nothing", "empty", "only stopped"])
def test_what_teaches_nothing_is_refused_with_everything_else(tmp_path, which):
    made = {
        "nothing": lambda: tmp_path / "absent",
        "empty": lambda: written(tmp_path / "e"),
        "only stopped": lambda: written(tmp_path / "s", record(TASKS[0], 0, 0.5, status="stopped")),
    }[which]()
    with pytest.raises(InputError) as error:
        learned([made, searched(tmp_path / "before"), tmp_path / "other"])
    assert len(error.value.problems) == 2
    has = "no trial of a search that trained all epochs" if which == "only stopped" else "no records"
    expected = f"`--learn-from` must name output folders of benchmarks, but {made} contains {has}."
    assert error.value.problems[0] == expected


LEAVES = {
    "learning_rate": Leaf(type="float", low=1e-4, high=1e-2, log=True),
    "lr_schedule": Leaf(type="choice", choices=("linear",)),
}


def taught(*points):
    return (
        Learned(backbone="b", method="lora", runs=("old",), tasks=("t", "u"), points=tuple(points)),
        Learned(backbone="b", method="ars", runs=("old",), tasks=("t",), points=({"p": 0.1},)),
    )


def test_configurations_outside_of_the_space_are_clipped_or_left_out_and_said():
    space = SearchSpace(method="lora", leaves=LEAVES, first_points=({"learning_rate": 1e-3},))
    good = {"learning_rate": 1e-5, "lr_schedule": "linear", "rank": 4}
    entries = taught(good, {**good, "lr_schedule": "constant"}, {"lr_schedule": "linear"})
    found = with_learned(space, entries, backbone="b").restrict(100)
    assert found.first_points[0] == {"learning_rate": 1e-4, "lr_schedule": "linear"}
    assert found.first_points[1] == {"learning_rate": 1e-3}
    said, clipped = found.notes
    assert said == (
        "first points: 1 learned from run old, tasks t, u; 2 left out, outside of the search space."
    )
    assert clipped.startswith("learning_rate 1e-05 of the first points became 0.0001")
    (none,) = with_learned(space, entries, backbone="c").notes
    assert none.startswith("first points: none learned")
    assert with_learned(space, None, backbone="b") == space
    assert origin_of(entries, backbone="b", method="ars") == "run old, task t"
    assert origin_of(entries, backbone="c", method="ars") == origin_of(None, backbone="b", method="ars") == ""


def test_what_was_learned_is_kept_in_the_settings_and_needs_the_folder_no_more(tmp_path):
    before = searched(tmp_path / "before")
    asked = {"methods": "lora,ars", "out": tmp_path / "out", "learn_from": str(before)}
    made = plan(build(settings(asked)))
    for file in RunFolder(before).records.iterdir():
        file.unlink()
    again = restore(json.loads(json.dumps(made.benchmark.stored(made.out))), {})
    assert again.learn_from == made.benchmark.learn_from and again.identity() == made.benchmark.identity()
    spaces = {(study.task.name, study.method): study.space for study in plan(again).studies}
    rates = [point["learning_rate"] for point in spaces[TASKS[0], "lora"].first_points]
    assert set(rates[:2]) == {1e-3, 1e-4}
    assert any("lora: first points: 3 learned from run before, tasks" in note for note in made.notes)
    assert any("ars: first points: none learned" in note for note in made.notes)
    assert settings({"learn_from": "none"}) == {} and "learn_from" not in build({}).identity()


def test_records_and_plan_say_where_first_points_come_from(tmp_path):
    """Of a method without a backbone, which is prepared at once."""
    point = {"learning_rate": 1e-3}
    old = Learned(backbone="none", method="onehot_cnn", runs=("old",), tasks=("t",), points=(point,))
    asked = {"tasks": TASKS[:1], "methods": ("onehot_cnn",), "limit": 64, "learn_from": (old,)}
    checked = plan(build({**asked, "out": tmp_path / "out"}))
    (study,) = prepare_studies(checked, {}, print)
    assert study.facts["first_points"] == "learned from run old, task t"
    run = searched(tmp_path / "before")
    options = ["--suite", "quickstart", "--methods", "lora,ars", "--learn-from", str(run), "--no-measure"]
    shown = CliRunner().invoke(app, ["plan", *options])
    assert shown.exit_code == 0 and "quickstart-opt lora: first points: 3 learned from run before" in (
        shown.stdout
    )


def test_auto_stands_for_the_searcher_that_is_recommended():
    assert build({"searcher": "auto"}) == build({}) == build({"searcher": "tpe"})
