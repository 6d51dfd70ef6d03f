"""`best`, from a folder and from a store: the same answers, in a form that `run --config` reads."""

import json
import math
from dataclasses import replace

import pytest
import yaml
from typer.testing import CliRunner

from harness.cli.main import app
from harness.config.initial_points import read_configurations
from harness.core.errors import InputError
from harness.pipeline.best import best_of, records_of, select
from harness.tracking.read import records_from_store
from harness.tracking.sync import sync
from tests.support.tracked import SETTING, STUDY, benchmark, job, keep, record, runs, story

OTHER = "prom/tata|tiny|ars"


def filled(out):
    """Two studies; the final run of the first has the winner's configuration."""
    benchmark(out)
    final = job("final/seed-1", "final", 1, learning_rate=1e-3 * 4)
    trials = [replace(each, test=None) for each in story() if each.stage == "search"]
    other = record(job(study=OTHER, p=0.1), ended="01", best=0.9)
    keep(out, *trials, record(final, test={"mcc": 0.4}, ended="30"), other)


def call(*arguments):
    result = CliRunner().invoke(app, ["best", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_folder_and_store_say_the_same(tmp_path, uri):
    filled(tmp_path)
    sync(tmp_path)
    from_folder = best_of(records_of(tmp_path))
    assert best_of(records_from_store(uri, "bench")) == from_folder
    tata, h3 = from_folder
    assert (h3.trial, h3.score, h3.trials, h3.test, h3.searched) == (
        "trial-0003",
        0.5,
        4,
        {1: 0.4},
        ["learning_rate"],
    )
    assert (tata.task, tata.backbone, tata.method, tata.score) == ("prom/tata", "tiny", "ars", 0.9)


def test_tasks_that_share_a_search_have_the_winner_of_their_mean(tmp_path, uri):
    """Trial 0 is the best of the one task, trial 1 of the mean of both: that is what the final stage trains."""
    benchmark(tmp_path, replace(SETTING, scope="suite"))
    for study, scores in ((STUDY, (0.5, 0.45)), ("prom/tata|tiny|lora", (0.1, 0.4))):
        for number, score in enumerate(scores):
            made = record(job(f"trial-{number:04d}", study=study), best=score, ended=f"{number:02d}")
            keep(tmp_path, made)
    sync(tmp_path)
    for records in (records_of(tmp_path), records_from_store(uri, "bench")):
        assert [(best.trial, best.score) for best in best_of(records)] == [
            ("trial-0001", 0.45),
            ("trial-0001", 0.4),
        ]
    code, out, _ = call(tmp_path, "--task", "EMP/H3", "--format", "json")
    assert code == 0 and [best["trial"] for best in json.loads(out)["configurations"]] == ["trial-0001"]
    (parent,) = runs(uri, "tags.stage = 'study' and tags.task = 'EMP/H3'")
    assert parent.data.tags["best.trial"] == "trial-0001" and parent.data.metrics["best/mcc"] == 0.45


def test_the_best_of_another_metric(tmp_path, uri):
    benchmark(tmp_path)
    scores = [(0.1, 0.9), (0.5, 0.6), (0.4, math.nan)]
    for number, (mcc, auroc) in enumerate(scores):
        made = record(job(f"trial-{number:04d}"))
        history = [{**made.history[-1], "dev": {"mcc": mcc, "auroc": auroc}}]
        keep(tmp_path, replace(made, dev={"mcc": mcc, "auroc": auroc}, history=history))
    sync(tmp_path)
    for records in (records_of(tmp_path), records_from_store(uri, "bench")):
        assert [best.trial for best in best_of(records)] == ["trial-0001"]
        assert [(best.trial, best.metric) for best in best_of(records, "auroc")] == [("trial-0000", "auroc")]
        with pytest.raises(InputError, match="`--metric` must be a dev metric, but got 'aurok'"):
            best_of(records, "aurok")


def test_names_select(tmp_path):
    filled(tmp_path)
    records = records_of(tmp_path)
    assert {r.method for r in select(records, task=(), method=("ars",))} == {"ars"}
    with pytest.raises(InputError) as error:
        select(records, task=("EMP/H4",), method=("larz",))
    assert len(error.value.problems) == 2 and "EMP/H3" in error.value.problems[0]


@pytest.mark.parametrize("form, read", [("yaml", yaml.safe_load), ("json", json.loads)])
def test_what_is_printed_can_be_fed_back(tmp_path, form, read):
    filled(tmp_path)
    code, printed, _ = call(tmp_path, "--format", form)
    assert code == 0
    assert [entry["score"] for entry in read(printed)["configurations"]] == [
        0.9,
        0.5,
    ]  # tasks by their best score
    (tmp_path / "best").write_text(printed)
    configurations = read_configurations(tmp_path / "best")
    assert [(one.task, one.config["learning_rate"]) for one in configurations] == [
        ("prom/tata", 1e-3),
        ("EMP/H3", 4e-3),
    ]


def test_an_error_is_best_when_lowest_and_what_a_constant_reaches_is_said():
    made = [
        replace(
            record(job(f"trial-{n:04d}"), best=mcc, ended=f"{n:02d}"), trial=n, dev={"mcc": mcc, "loss": loss}
        )
        for n, (mcc, loss) in enumerate(((0.0, 0.3), (0.0, 0.9), (-0.2, 0.5)))
    ]
    made = [
        replace(r, history=[{"epoch": 1, "step": 1, "seconds": 1.0, "train_loss": 0.5, "dev": r.dev}])
        for r in made
    ]
    (found,) = best_of(made, "loss")
    assert (found.trial, found.score) == ("trial-0000", 0.3)
    (by_mcc,) = best_of(made)
    assert "its dev score is not above that of a constant prediction" in by_mcc.notes


def test_a_seed_without_a_score_is_not_left_out():
    (found,) = best_of([replace(record(job("trial-0000")), trial=0)])
    assert replace(found, test={0: 0.5, 1: float("nan")}).tested == "undefined (2)"
    assert replace(found, test={0: 0.5, 1: 0.6}).tested == "0.550 (0.500, 0.600) (2)"


def test_the_table(tmp_path):
    filled(tmp_path)
    code, printed, _ = call(tmp_path, "--task", "EMP/H3")
    assert code == 0
    for part in ("EMP/H3", "0.500", "0.400 (1)", "trial-0003", "learning_rate=0.004"):
        assert part in printed
    assert "prom" not in printed


def test_nothing_finished_yet(tmp_path):
    benchmark(tmp_path)
    keep(tmp_path, record(job(), "killed"))
    assert call(tmp_path)[0] == 1


@pytest.mark.parametrize(
    "arguments, told",
    [
        ([], "needs RUN, or both"),
        (["RUN", "--experiment", "x"], "but got both"),
        (["RUN", "--tracking-uri", "x"], "but got both"),
        (["RUN", "--format", "xml"], "must be table, yaml or json"),
        (["--experiment", "e", "--tracking-uri", "sqlite:///STORE", "--register", "x"], "requires RUN"),
        (["--experiment", "bench2", "--tracking-uri", "sqlite:///STORE"], "an experiment of the store"),
        (["--experiment", "bench", "--tracking-uri", "http://me@host"], "both user and password"),
        (["EMPTY"], "contains no records"),
        (["RUN", "--register", "a/b"], "`--register` must consist of letters"),
        (["RUN", "--register", "dna"], "needs an adapter"),
    ],
)
def test_bad_input_is_a_line(tmp_path, uri, arguments, told):
    filled(tmp_path)
    places = {"RUN": str(tmp_path), "EMPTY": str(tmp_path / "none")}
    given = [places.get(each, each.replace("STORE", str(tmp_path / "mlflow.db"))) for each in arguments]
    code, _, problems = call(*given)
    assert code == 2
    assert told in " ".join(problems.split())
