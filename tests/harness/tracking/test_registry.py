"""The winner's adapter as a logged model and as champion: loaded by MLflow, it predicts what the adapter predicts."""

from dataclasses import replace

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from harness.core.errors import InputError
from harness.runs.layout import adapter_folder
from harness.tracking.models import MODEL
from harness.tracking.registry import register_best
from harness.tracking.sync import sync
from lingo.export import export_adapter
from lingo.pack import Pack
from lingo.predict import open_adapter
from lingo.prompts import Prompt
from tests.lingo import toy
from tests.lingo.tiny import Checkpoints, task, train
from tests.support.tracked import FINAL, SETTING, STUDY, TITLE, benchmark, by_name, job, keep, record

SEQUENCES = ["ACGTTGCA", "GGG", "TTACGATTACA"]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A trained adapter of a tiny random backbone."""
    root = tmp_path_factory.mktemp("export")
    backbone = Checkpoints(root)("opt")
    data = task(backbone)
    pack = Pack(backbone, max_rank=6, max_labels=2)
    (slot,) = train(pack, data, [toy.trial("lora", 3, epochs=2, learning_rate=5e-2)], 10)
    return export_adapter(pack, slot, root / "adapters" / "toy" / "seed-1", card={}, prompt=Prompt("", ""))


def finals(adapter, *scores):
    """Final runs of seeds 1, 2, …, all with the same adapter, by their dev score."""
    return [
        record(
            job(f"final/seed-{seed}", "final", seed),
            test={"mcc": 0.4},
            best=score,
            facts={"adapter": str(adapter)},
            ended=f"{seed:02d}",
        )
        for seed, score in enumerate(scores, 1)
    ]


@pytest.mark.slow
def test_the_champion_predicts_what_the_adapter_predicts(tmp_path, uri, adapter, monkeypatch):
    setting = replace(SETTING, seeds=(1, 2))
    benchmark(tmp_path, setting)
    keep(tmp_path, record(job()), *finals(adapter, 0.3, 0.5))
    assert sync(tmp_path).refused == []
    found, client = by_name(uri), MlflowClient(uri)
    model = client.get_logged_model(found[TITLE].data.tags[MODEL])
    assert model.source_run_id == found["final/seed-2"].info.run_id
    assert [out.model_id for out in found["final/seed-2"].outputs.model_outputs] == [model.model_id]

    first, again = (register_best(tmp_path, STUDY, "dna") for _ in range(2))
    assert (first, first.version, first.run) == (again, "1", "final/seed-2")
    experiment = client.get_experiment_by_name("bench").experiment_id
    assert len(client.search_logged_models([experiment])) == 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    champion = mlflow.pyfunc.load_model("models:/dna@champion")
    scores = champion.predict(pd.DataFrame({"sequence": SEQUENCES}))
    np.testing.assert_allclose(scores.to_numpy(), open_adapter(adapter).predict(SEQUENCES), atol=1e-7)
    signature = champion.metadata.signature
    assert signature.inputs.input_names() == ["sequence"]
    assert signature.outputs.input_names() == list(scores.columns)
    assert list(champion.input_example.columns) == ["sequence"]
    kept = list((tmp_path / "mlartifacts").rglob("*"))
    assert kept and not [path for path in kept if path.suffix in (".pkl", ".bin", ".pickle")]


def test_an_adapter_is_found_where_its_folder_has_moved(tmp_path, adapter):
    (moved,) = finals("/elsewhere/run/adapters/toy/seed-1", 0.5)
    assert adapter_folder(adapter.parents[2], moved) == adapter
    assert adapter_folder(tmp_path, moved) is None
    assert adapter_folder(tmp_path, record(FINAL)) is None


def test_an_adapter_that_cannot_be_packed_costs_no_run(tmp_path, uri, adapter):
    broken = tmp_path / "adapters" / "toy" / "seed-1"
    broken.mkdir(parents=True)
    (broken / "lingo.json").write_text("{}")
    benchmark(tmp_path)
    keep(tmp_path, *finals(broken, 0.5))
    done = sync(tmp_path)
    assert (done.written, len(done.refused)) == (1, 1)
    assert {run.info.status for run in by_name(uri).values()} == {"FINISHED"}


def test_registering_needs_runs_and_an_adapter(tmp_path, uri, adapter):
    benchmark(tmp_path)
    keep(tmp_path, record(FINAL))
    with pytest.raises(InputError, match="needs an adapter"):
        register_best(tmp_path, STUDY, "dna")
    keep(tmp_path, *finals(adapter, 0.5))
    with pytest.raises(InputError, match="needs the runs in the store"):
        register_best(tmp_path, STUDY, "dna")
