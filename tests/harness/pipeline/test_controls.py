"""Controls with random weights: the winner's configuration, weights alone differ, never the best, their own column."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from scipy import stats as scipy_stats

from harness.config.build import build
from harness.config.plan import plan
from harness.core.errors import InputError
from harness.pipeline.prepare import refuse_other_inputs
from harness.pipeline.recorder import Recorder
from harness.pipeline.remaining import final_jobs, missing, outdated, unsearched, winners
from harness.report.leaderboard import leaderboard, plain
from harness.report.leaderboard import winners as told
from harness.report.outcomes import outcomes_of
from harness.report.run_results import RunResults
from harness.report.sections import overview, significance
from harness.runs.controls import control_name, is_control, pretrained_of
from harness.runs.jobs import Event, Job, Report
from harness.runs.record import Record
from harness.runs.store import ResultStore
from lingo.fresh_names import fresh_name
from tests.support.studies import prepared_study

TOY, RANDOM = "toy", control_name("toy")
ASKED = build({"tasks": ("mouse/2",), "models": (TOY,), "seeds": (1, 2)})


def record(backbone=TOY, seed=0, mcc=0.5, *, method="lora", stage="final", trial=None, **config):
    study = f"mouse/2|{backbone}|{method}"
    return Record(
        id=f"{study}/{stage}/{seed}",
        benchmark="b",
        study=study,
        task="mouse/2",
        family="mouse",
        backbone=backbone,
        method=method,
        metric="mcc",
        stage=stage,
        trial=trial,
        seed=seed,
        status="finished",
        config={"learning_rate": 0.1, "seed": seed, **config},
        history=[{"epoch": 1, "step": 1, "seconds": 1.0, "train_loss": 0.5, "dev": {"mcc": mcc}}],
        dev={"mcc": mcc},
        test={"mcc": mcc} if stage == "final" else None,
        backbone_digest=f"{backbone}{seed}",
    )


@pytest.fixture
def studies(tmp_path):
    first = prepared_study(tmp_path)
    return [first, replace(first, backbone=RANDOM)]


def test_a_control_beside_each_study_with_a_backbone(shared, tmp_path):
    given = {"tasks": ("prom/prom_core_tata",), "data_dir": shared / "data/gue", "limit": 20, "out": tmp_path}
    given |= {"models": (str(shared / "models/stories260K"),), "methods": ("lora", "probe", "kmer_logreg")}
    before, after = plan(build(given)), plan(build(given | {"controls": "random-init"}))
    assert before.identity == after.identity  # an output folder goes on with controls
    found = [study for study in after.studies if study.is_control]
    assert [study.method for study in found] == ["lora", "probe"]
    assert [study for study in after.studies if not study.is_control] == list(before.studies)
    for control in found:
        (of,) = [s for s in before.studies if s.method == control.method]
        assert control == replace(of, backbone=control.backbone)
        assert pretrained_of(control.backbone) == of.backbone and control.trials(after.benchmark) == 0


def test_a_control_has_the_winners_configuration_and_weights_of_its_seed(studies, tmp_path):
    asked = SimpleNamespace(scope="task", searcher="tpe", num_samples=2)
    assert unsearched([], studies, asked) == studies[:1]
    search = [record(stage="search", seed=0, mcc=m, trial=i, rank=i) for i, m in enumerate((0.3, 0.6))]
    assert final_jobs([], studies, ASKED) == []
    jobs = final_jobs(search, studies, ASKED, tmp_path / "adapters")
    mine, controls = ([job for job in jobs if job.study == study.key] for study in studies)
    assert [job.backbone for job in controls] == [fresh_name("/models/toy", seed) for seed in (1, 2)]
    for one, other in zip(mine, controls, strict=True):
        assert one.config["rank"] == 1 and other.adapter is None and one.adapter is not None
        same = {"id": "", "study": "", "backbone": "", "adapter": None}
        assert replace(one, **same) == replace(other, **same)
    assert winners(search, studies[1:]) == {}


def test_controls_are_resumed_and_follow_another_winner(studies):
    search = [record(stage="search", seed=0, mcc=0.3, trial=0, rank=0)]
    done = [record(seed=1, rank=0), record(RANDOM, seed=1, rank=0)]
    left = missing([*search, *done], studies, ASKED)
    assert left == [(study, search[0], 2) for study in studies]
    assert outdated([*search, *done], studies, ASKED) == []
    better = record(stage="search", seed=0, mcc=0.9, trial=1, rank=5)
    assert outdated([*search, better, *done], studies, ASKED) == done


def test_records_have_the_digest_that_the_worker_measured(studies, tmp_path):
    store = ResultStore(tmp_path / "out", {})
    recorder = Recorder(store, studies, benchmark="b", environment={})
    for study in studies:
        job = Job(
            id=f"{study.key}/final/seed-0", study=study.key, stage="final", backbone="b", data="d",
            config={"method": "lora", "seed": 0},
        )  # fmt: skip
        report = Report(job=job.id, number=1, status="finished", dev={"mcc": 0.1}, test={"mcc": 0.1},
                        facts={"backbone_digest": f"measured {study.backbone}"})  # fmt: skip
        for number, status in enumerate(("queued", "started", "finished"), 1):
            recorder(Event(number, job, report, status, [report]))
    found = {one.backbone: one.backbone_digest for one in store.load()}
    assert found == {TOY: "b" * 64, RANDOM: f"measured {RANDOM}"}
    refuse_other_inputs(store.load(), studies, Path("out"))  # a control's own is no other backbone
    with pytest.raises(InputError, match="another backbone"):
        refuse_other_inputs(store.load(), [replace(studies[0], backbone_digest="c" * 64)], Path("out"))


SCORES, CHANCE = (0.61, 0.58, 0.7), (0.2, 0.31, 0.22)


def both(scores=SCORES, chance=CHANCE):
    mine = [record(seed=seed, mcc=mcc) for seed, mcc in enumerate(scores)]
    return mine + [record(RANDOM, seed=seed, mcc=mcc) for seed, mcc in enumerate(chance)]


def test_the_difference_has_students_interval_of_pairs():
    row, control = leaderboard(both(), expected=[("mouse/2", b, "lora") for b in (TOY, RANDOM)])
    limits = scipy_stats.ttest_rel(SCORES, CHANCE).confidence_interval(0.95)
    assert row.over_random == pytest.approx([a - b for a, b in zip(SCORES, CHANCE, strict=True)])
    assert row.over_random_limits == pytest.approx((limits.low, limits.high))
    assert control.over_random == () and "over_random" not in control.to_dict()
    text = plain([row, control])
    assert f"+0.387 [{limits.low:.3f}, {limits.high:.3f}]" in text and "− random" in text
    assert "− random" not in plain(leaderboard(both()[:3]))
    two = leaderboard(both(SCORES[:2], CHANCE[:2]))
    assert {row.over_random_limits for row in two} == {None} and "+0.340" in plain(two)


def test_controls_are_never_the_best():
    other = [record(seed=seed, mcc=0.1, method="ars") for seed in range(3)]
    rows = leaderboard([*both(CHANCE, SCORES), *other])
    assert [(row.backbone, row.method) for row in rows if row.best] == [(TOY, "lora")]
    assert told(rows) == ["best of mouse/2: lora, MCC 0.243, which a control with random weights reaches"]


def test_the_report_counts_controls_among_the_baselines():
    def of(records):
        run = RunResults(folder=Path("r"), trials=records, settings={"seeds": [0, 1, 2]})
        return run, outcomes_of([run])

    run, outcomes = of(both(CHANCE, SCORES))
    assert outcomes.backbones == [TOY] and [o.control for o in outcomes.main] == [False]
    assert "although a simple baseline or control (LoRA on toy with random weights) is" in overview.lead(
        [run], outcomes
    )
    run, outcomes = of(both())
    assert "above every simple baseline and every control" in overview.lead([run], outcomes)
    table = next(b for b in significance.section(outcomes).blocks if getattr(b, "name", "") == "controls")
    (line,) = table.data
    limits = scipy_stats.ttest_rel(SCORES, CHANCE).confidence_interval(0.95)
    assert (line["difference"], line["low"], line["high"]) == pytest.approx((0.387, *limits), abs=1e-3)
    weights = table.rows[0][-1]
    assert weights.text == "toy0, toy1, toy2" and weights.lines == (RANDOM[:8],)
    assert not any(
        getattr(b, "name", "") == "controls" for b in significance.section(of(both()[:3])[1]).blocks
    )


def test_names_tell_controls():
    assert is_control(RANDOM) and not is_control(TOY) and pretrained_of(RANDOM) == TOY
