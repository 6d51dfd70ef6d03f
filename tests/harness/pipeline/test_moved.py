"""An output folder that was moved, copied or restored, and every command on it; exports used from anywhere."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.config.build import build
from harness.core.store_address import default_uri
from harness.data.prepared import prepare
from harness.data.quickstart import make_backbone, make_data
from harness.data.tasks import TASKS
from harness.runs.mirror import Copy
from harness.runs.store import load
from harness.tracking.database import prepare as open_database
from lingo.backbones import load_backbone
from lingo.predict import open_adapter
from tests.support.trained_run import final_runs

TASK = TASKS["quickstart/promoter"]
NAMES = ["--task", TASK.name, "--method", "lora"]
SEQUENCES = ["ACGTTGCANNGT", "TTTTACG", "GATTACA" * 8]
REAL = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A run as it was made in its first place, from a relative `--out`: a search trial, a final seed, its store."""
    home = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        out = Path("run")
        backbone = load_backbone(make_backbone(out / "quickstart" / "model"))
        options: dict[str, Any] = {"tokenizer": backbone.tokenizer, "pad_id": backbone.pad_id, "limit": 32}
        prepared = prepare(TASK, make_data(out / "quickstart"), out / "data", **options)
        settings: dict[str, Any] = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-2}
        final_runs(out, TASK, prepared, out / "quickstart" / "model", method="lora", seeds=(0,), **settings)
        (final,) = load(out)
        trial = json.loads(final.to_json()) | {
            "id": f"{final.study}/trial-0000",
            "stage": "search",
            "trial": 0,
        }
        trial |= {"test": None, "facts": {}}
        (out / "records" / "trial.json").write_text(json.dumps(trial))
        shutil.copy(empty_store, out / "mlflow.db")
        assert command("sync", out)[0] == 0
        open_adapter(out / "adapters" / "quickstart_promoter" / "tiny" / "lora" / "seed-0")
    return home / "run"


def command(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "1000"})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def moved(made: Path, to: Path) -> Path:
    """The run in another place, its first place gone; `made` is given back at the end of the module."""
    shutil.copytree(made, to)
    return to


@pytest.fixture(params=["moved", "copied", "restored"])
def run(request: pytest.FixtureRequest, made: Path, tmp_path: Path) -> Any:
    """The run in another place, and that its first place is as it was (or gone)."""
    place, away = tmp_path / "other place" / "run", made.with_name("away")
    if request.param == "restored":
        Copy(made, str(tmp_path / "storage")).push()
        Copy(place, str(tmp_path / "storage")).pull()
    else:
        shutil.copytree(made, place)
    if request.param == "copied":
        held = files(made)
        yield place
        assert files(made) == held, "the original is never written"
        return
    made.rename(away)
    yield place
    assert not made.exists()
    away.rename(made)


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """What lies in a folder, and when it was written."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def test_every_command_works_on_a_run_in_another_place(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import pyfunc
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    records = files(run / "records")
    code, text = command("sync", run)
    assert code == 0 and "0 of 2 runs written; the store is complete." in text
    uri = default_uri(run)
    client, found = MlflowClient(uri), by_suite(uri)
    for each in found:
        assert each.info.artifact_uri.startswith((run / "mlartifacts").as_uri())
    final = next(each for each in found if each.data.tags["stage"] == "final")
    assert "scores.json" in {item.path for item in client.list_artifacts(final.info.run_id)}
    code, text = command("best", run, "--register", "dna", "--format", "json")
    assert code == 0 and "models:/dna@champion is version 1" in text
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    version = client.get_model_version_by_alias("dna", "champion")
    assert version.source.startswith((run / "mlartifacts").as_uri())
    champion = (
        pyfunc.load_model("models:/dna@champion").predict(pd.DataFrame({"sequence": SEQUENCES})).to_numpy()
    )

    adapter = next((run / "adapters").rglob("lingo.json")).parent
    expected = open_adapter(adapter).predict(SEQUENCES)
    np.testing.assert_allclose(champion, expected, atol=1e-7)
    code, text = command("export", run, *NAMES)
    assert code == 0, text
    export = run / "exports" / "quickstart_promoter-tiny-lora"
    np.testing.assert_allclose(open_adapter(export).predict(SEQUENCES), expected, atol=1e-7)
    assert command("export", run, *NAMES, "--merge")[0] == 0
    (tmp_path / "in.fa").write_text("".join(f">s{i}\n{text}\n" for i, text in enumerate(SEQUENCES)))
    monkeypatch.chdir(export)
    for place in (".", adapter):
        code, text = command(
            "predict", "--adapter", place, "--input", tmp_path / "in.fa", "--output", tmp_path / "p.csv"
        )
        assert code == 0, text
    code, text = command("report", run)
    assert code == 0 and (run / "report").is_dir()
    open_database(run, uri, writer=False)  # as `ui` does
    assert files(run / "records") == records, "records are never changed"

    # and once more: a registered model goes along, too
    last = run.with_name("last")
    run.rename(last)
    assert command("sync", last)[0] == 0
    monkeypatch.setenv("MLFLOW_TRACKING_URI", default_uri(last))
    again = (
        pyfunc.load_model("models:/dna@champion").predict(pd.DataFrame({"sequence": SEQUENCES})).to_numpy()
    )
    np.testing.assert_allclose(again, expected, atol=1e-7)
    last.rename(run)


def by_suite(uri: str) -> list[Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("test")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def test_models_whose_files_are_gone_are_logged_again(made: Path, tmp_path: Path) -> None:
    run = moved(made, tmp_path / "run")
    shutil.rmtree(run / "mlartifacts")
    code, text = command("best", run, "--register", "dna")
    assert code == 0, text
    assert list((run / "mlartifacts" / "models").rglob("MLmodel"))


def test_an_export_is_used_from_anywhere_without_its_run(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its card's program runs inside it, in a process of its own; nothing of the run is left."""
    pytest.importorskip("peft")
    run, away = moved(made, tmp_path / "run"), made.with_name("away")
    assert command("export", run, *NAMES, "--out", tmp_path / "e" / "out")[0] == 0
    shutil.rmtree(run)
    made.rename(away)
    try:
        folder = (tmp_path / "e" / "out").rename(tmp_path / "elsewhere")
        predictor = open_adapter(folder)
        split = predictor.encode(SEQUENCES).split
        ids, lengths = split.padded(range(3), predictor.facts.pad_id)
        np.savez(tmp_path / "in.npz", ids=ids, lengths=lengths)
        (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
        program = f"""
import numpy, torch
from transformers import BatchEncoding
held = numpy.load({str(tmp_path / "in.npz")!r})
ids, lengths = (torch.from_numpy(held[name]) for name in ("ids", "lengths"))
inputs = BatchEncoding({{"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long()}})
torch.set_grad_enabled(False)
{code}
numpy.save({str(tmp_path / "out.npy")!r}, logits.numpy())
"""
        done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        np.testing.assert_allclose(np.load(tmp_path / "out.npy"), predictor.logits(SEQUENCES), atol=1e-5)
        assert json.loads((folder / "lingo.json").read_text())["backbone"]["source"] == "backbone"
        assert (
            json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "backbone"
        )
    finally:
        away.rename(made)


def test_a_quickstart_backbone_that_is_gone_is_made_again_for_an_export(made: Path, tmp_path: Path) -> None:
    run, away = moved(made, tmp_path / "run"), made.with_name("away")
    shutil.rmtree(run / "quickstart")
    made.rename(away)
    try:
        assert command("export", run, *NAMES, "--out", tmp_path / "out")[0] == 0
        found = open_adapter(tmp_path / "out")
        assert found.backbone.digest == load(run)[0].backbone_digest
    finally:
        away.rename(made)


def test_a_folder_of_the_users_own_is_named_by_its_absolute_path(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made.parent)
    assert load_backbone("run/quickstart/model").source == str(made / "quickstart" / "model")
    assert build({"tasks": (TASK.name,), "models": ("run/quickstart/model",)}).models == (
        str(made / "quickstart" / "model"),
    )


def test_another_backbone_in_the_old_place_is_refused(made: Path, tmp_path: Path) -> None:
    run = moved(made, tmp_path / "run")
    other = make_backbone(tmp_path / "other" / "model", seed=7)
    adapter = next((run / "adapters").rglob("lingo.json")).parent
    code, _ = command(
        "predict",
        "--adapter",
        adapter,
        "--backbone",
        other,
        "--input",
        REAL / "README.md",
        "--output",
        "x.csv",
    )
    assert code == 2
    with pytest.raises(ValueError, match="another model, or other files of it"):
        open_adapter(adapter, other)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1200)
def test_a_moved_run_goes_on_with_more_trials(tmp_path: Path) -> None:
    """Through the real command: started with a relative `--out`, moved away, raised, and copied and raised."""
    options = [
        "--tasks",
        "quickstart/promoter",
        "--models",
        "quickstart-opt",
        "--methods",
        "lora",
        "--seeds",
        "0",
    ]
    options += [
        "--epochs",
        "1",
        "--limit",
        "64",
        "--max-concurrent",
        "1",
        "--num-samples",
        "1",
        "--out",
        "run",
    ]

    def real(folder: Path, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, str(REAL / "run_benchmark.py"), *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(REAL)},
            timeout=500,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    (tmp_path / "a").mkdir()
    real(tmp_path / "a", *options)
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "run").rename(tmp_path / "b" / "other")
    real(tmp_path, "resume", "b/other", "--num-samples", "2")
    out = tmp_path / "b" / "other"
    assert {record.id.rsplit("/", 1)[1] for record in load(out)} >= {"trial-0000", "trial-0001"}
    assert not list((tmp_path / "a").iterdir()) or [p.name for p in (tmp_path / "a").iterdir()] == ["mlruns"]
    assert command("sync", out)[1].startswith("0 of")
    assert len(by_experiment(out)) in (4, 5), (
        "the study, two trials, its final run, and another one of a new winner"
    )
    assert command("export", out, *NAMES, "--out", tmp_path / "e")[0] == 0
    assert len(open_adapter(tmp_path / "e").predict(SEQUENCES)) == 3


def by_experiment(out: Path) -> list[Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(default_uri(out))
    experiment = client.get_experiment_by_name("custom")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))
