"""`--tokenization`: from the option to prepared ids and a backbone with embedding rows for them."""

import json
from dataclasses import replace
from typing import Any

import pytest

from harness.config.build import build
from harness.core.errors import InputError
from harness.data.labelled_files import read_rows
from harness.data.prepared import open_prepared, open_test, prepare, read_recipe
from harness.data.quickstart import make_backbone, make_data
from harness.data.tasks import TASKS
from harness.runs.jobs import Job
from harness.workers.packed_engine import LingoEngine
from lingo.adapter_folder import adapter_digest
from lingo.backbones import load_backbone
from lingo.embeddings import rows_of
from lingo.methods import METHODS
from lingo.metrics import score
from lingo.nucleotides import units_for
from lingo.predict import open_adapter
from lingo.prompts import prompt_for

TASK = TASKS["quickstart/promoter"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(backbone's folder, prepared tasks by scheme), both tiny."""
    folder = tmp_path_factory.mktemp("tokenization")
    model = make_backbone(folder / "model")
    backbone = load_backbone(model)
    data = make_data(folder / "data")
    rows = rows_of(backbone)
    prepared = {}
    for scheme in ("bbpe", "one_hot", "kmer"):
        tokenizer = backbone.tokenizer if scheme == "bbpe" else units_for(scheme, backbone.tokenizer, rows)
        options: dict[str, Any] = {"tokenizer": tokenizer, "pad_id": backbone.pad_id, "limit": 64}
        prepared[scheme] = prepare(
            TASK, data, folder / "prepared", prompt=prompt_for(TASK.domain), max_length=100, **options
        )
    return model, rows, prepared


def job(model, prepared, name="final", **settings):
    config = {"method": "lora", "seed": 1, "epochs": 2, "batch_size": 16, "learning_rate": 1e-2} | settings
    return Job(
        id=f"study/{name}",
        study="study",
        stage="final" if name == "final" else "search",
        backbone=str(model),
        data=str(prepared.folder),
        config=config,
    )


def end(engine, job):
    engine.admit(job)
    for _ in range(1000):
        for report in engine.advance():
            if report.status != "running":
                return report
    raise AssertionError("the job did not end")


def test_each_scheme_has_its_own_folder_and_ids(made):
    _, rows, prepared = made
    assert len({task.folder for task in prepared.values()}) == 3
    assert len({task.digest for task in prepared.values()}) == 3
    for scheme, new, tokens in (("one_hot", 5, TASK.length), ("kmer", 4101, TASK.length // 6)):
        recipe = read_recipe(prepared[scheme].folder)
        assert (recipe["tokenization"], recipe["first_id"], recipe["new_tokens"]) == (scheme, rows, new)
        (first,) = open_prepared(prepared[scheme].folder).train.batch([0])
        inside = first[first >= rows]
        assert inside.max() < rows + new
        assert abs(len(inside) - tokens) <= 5
        assert 0 < len(inside) < len(first) <= 100
    assert "tokenization" not in read_recipe(prepared["bbpe"].folder)


def test_prepared_once(made):
    model, rows, prepared = made
    backbone = load_backbone(model)
    folder = prepared["kmer"].folder
    options: dict[str, Any] = {"pad_id": backbone.pad_id, "limit": 64, "max_length": 100}
    again = prepare(
        TASK,
        folder.parent.parent / "data",
        folder.parent,
        tokenizer=units_for("kmer", backbone.tokenizer, rows),
        prompt=prompt_for(TASK.domain),
        **options,
    )
    assert again == prepared["kmer"]


def test_one_engine_trains_each_scheme_on_a_backbone_with_its_rows(made):
    model, _, prepared = made
    engine = LingoEngine()
    parameters = {}
    for scheme in ("one_hot", "bbpe", "kmer", "one_hot"):
        report = end(engine, job(model, prepared[scheme]))
        assert report.status == "finished" and report.test is not None
        again = parameters.setdefault(scheme, (report.facts["total_parameters"], report.dev["loss"]))
        assert again == (report.facts["total_parameters"], report.dev["loss"])
    wide = load_backbone(model).model.get_input_embeddings().embedding_dim
    assert parameters["one_hot"][0] - parameters["bbpe"][0] == 5 * wide
    assert parameters["kmer"][0] - parameters["bbpe"][0] == 4101 * wide


def test_jobs_of_two_schemes_do_not_share_a_pack(made):
    model, _, prepared = made
    engine = LingoEngine(capacity=2)
    engine.admit(job(model, prepared["one_hot"]))
    assert engine.free_slots(job(model, prepared["one_hot"])) == 1
    assert engine.free_slots(job(model, prepared["bbpe"])) == 0
    engine.close()


@pytest.mark.parametrize("scheme", ["one_hot", "kmer"])
def test_an_adapter_for_new_tokens_predicts_from_its_folder_alone(made, tmp_path, scheme):
    model, _, prepared = made
    asked = replace(job(model, prepared[scheme]), adapter=str(tmp_path / "adapter"))
    report = end(LingoEngine(), asked)
    assert report.facts["adapter_digest"] == adapter_digest(tmp_path / "adapter")
    predictor, kept = open_adapter(tmp_path / "adapter"), open_test(prepared[scheme].folder)
    rows, problems = read_rows(prepared[scheme].folder.parents[1] / "data" / TASK.name / "test.csv", 2)
    assert not problems
    encoded = predictor.encode(rows.sequences).split
    ids = [tuple(row) for row in encoded.batch(range(len(encoded)))]
    by_ids = dict(zip(ids, rows.sequences, strict=True))
    sequences = [by_ids[tuple(row)] for row in kept.batch(range(len(kept)))]
    found = score("classification", predictor.logits(sequences), kept.labels)
    assert found == pytest.approx(report.test, abs=1e-4)


def test_the_option():
    base: dict[str, Any] = {"tasks": ("mouse/2",), "models": ("opt-125m",), "methods": tuple(METHODS)}
    plain, chosen = build(base), build({**base, "tokenization": "one_hot"})
    assert plain.tokenization == "bbpe"
    assert "tokenization" not in plain.identity()
    assert json.loads(json.dumps(chosen.identity()))["tokenization"] == "one_hot"
    with pytest.raises(InputError) as caught:
        build({**base, "tokenization": "onehot"})
    assert caught.value.problems == [
        "`--tokenization` must be bbpe, one_hot or kmer, but got 'onehot'.",
    ]
