"""Configurations from a file: read strictly, tried first, exactly as they are."""

import json
from pathlib import Path

import pytest
import yaml

from harness.config.build import build, restore
from harness.config.initial_points import Configuration, options_from, put_first, read_configurations
from harness.config.plan import plan
from harness.config.search_space import Leaf, SearchSpace
from harness.core.errors import InputError

CONFIG = {
    "method": "lora",
    "seed": 3,
    "learning_rate": 0.02,
    "rank": 9,
    "alpha": 16.0,
    "epochs": 2,
    "batch_size": 4,
}
ENTRY = {
    "task": "quickstart/promoter",
    "backbone": "quickstart-opt",
    "method": "lora",
    "score": 0.5,
    "config": CONFIG,
}


def written(path, *entries, form="yaml"):
    content = {"configurations": list(entries)}
    path.write_text(yaml.safe_dump(content) if form == "yaml" else json.dumps(content))
    return path


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_what_best_prints_is_read(tmp_path, form):
    (one,) = read_configurations(written(tmp_path / "best", ENTRY, form=form))
    assert (one.task, one.backbone, one.method, one.config) == (*list(ENTRY.values())[:3], CONFIG)


def test_every_problem_of_a_file_at_once(tmp_path):
    bad = written(
        tmp_path / "bad.yaml",
        {"method": "lora"},
        {"method": "lra", "config": {}},
        {"method": "lora", "config": {"learning_rat": 1.0}},
        {"method": "lora", "config": {"learning_rate": "1e-3"}},
        {"method": "adalora", "config": {"b0": 2, "bT": 4}},
        {"method": "lora", "task": 3, "config": {}},
    )
    with pytest.raises(InputError) as error:
        read_configurations(bad)
    told = error.value.problems
    assert len(told) == 6 and all(str(bad) in line for line in told)
    parts = (
        "must have `method`",
        "Nearest known: lora",
        "learning_rate",
        "1.0e-3",
        "at least `bT`",
        "`task` must",
    )
    assert all(part in line for part, line in zip(parts, told, strict=True))


@pytest.mark.parametrize("text", ["", "a: [", "configurations: {}", "configurations: []", "- 1"])
def test_another_file_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    for path in (tmp_path / "x.yaml", tmp_path / "absent.yaml"):
        with pytest.raises(InputError) as error:
            read_configurations(path)
        assert len(error.value.problems) == 1


def test_the_file_gives_epochs_batch_size_and_seed_where_all_agree():
    one, other = (Configuration(method="lora", config={**CONFIG, "epochs": n}) for n in (2, 5))
    assert options_from([one], {"seed": 1}).items() >= {"epochs": 2, "batch_size": 4}.items()
    found = options_from([one, other], {})
    assert ("epochs" in found, found["seed"]) == (False, 3)


def test_a_space_is_widened_to_reach_the_configuration():
    leaves = {
        "learning_rate": Leaf(type="float", low=1e-5, high=1e-2, log=True),
        "rank": Leaf(type="int", low=2, high=8, step=2),
        "lr_schedule": Leaf(type="choice", choices=("linear",)),
    }
    space = SearchSpace(method="lora", leaves=leaves, fixed={"alpha": 32.0}, first_points=({"rank": 4},))
    config = {**CONFIG, "lr_schedule": "constant", "b0": 3}
    found = put_first(space, [Configuration(method="lora", config=config)], task="t", backbone="b")
    point = {"learning_rate": 0.02, "rank": 9, "lr_schedule": "constant"}
    assert found.first_points == (point, {"rank": 4})
    assert [found.leaves[name].clip(value) for name, value in point.items()] == list(point.values())
    assert found.fixed == {"alpha": 16.0}
    assert len(found.notes) == 4
    assert (
        put_first(space, [Configuration(method="lora", config=config, task="x")], task="t", backbone="b")
        == space
    )


def planned(tmp_path: Path, *entries, **options):
    brought = options_from(read_configurations(written(tmp_path / "best.yaml", *entries)), options)
    given = {"methods": ("lora",), "out": tmp_path / "out", **options, **brought}
    return plan(build(given))


def test_the_first_trial_of_a_study_is_the_configuration(tmp_path):
    made = planned(tmp_path, ENTRY, num_samples=1)
    spaces = {study.task.name: study.space for study in made.studies}
    space = spaces["quickstart/promoter"]
    benchmark = made.benchmark
    trial = space.config(
        space.first_points[0], seed=benchmark.seed, epochs=benchmark.epochs, batch_size=benchmark.batch_size
    )
    assert {**trial.to_dict(), **CONFIG} == trial.to_dict()
    assert "learning_rate" in spaces["quickstart/motif_pair"].first_points[0]
    assert spaces["quickstart/motif_pair"].first_points[0]["learning_rate"] != 0.02
    assert restore(json.loads(benchmark.model_dump_json()), {}) == benchmark


def test_a_configuration_is_part_of_what_is_measured(tmp_path):
    plain = plan(build({"methods": ("lora",), "out": tmp_path / "out"}))
    assert "configurations" not in plain.identity
    assert planned(tmp_path, ENTRY).identity["configurations"]


def test_a_file_for_other_studies_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"`--config` must have a configuration for one of the studies"):
        planned(tmp_path, {**ENTRY, "task": "EMP/H3"})
