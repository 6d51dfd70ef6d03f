"""A final run's adapter as a logged model of MLflow."""

import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import lingo
from harness.data.adapter_copy import copy_adapter
from harness.runs.layout import adapter_folder
from harness.runs.record import Record
from harness.tracking.store import Store

MODEL, MODEL_OF = "best.model", "best.model_of"
"""Tags of a study's run: id of the logged model, and the final run whose adapter it is."""

NEEDS = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "huggingface-hub",
    "numpy",
    "scipy",
    "scikit-learn",
)
EXAMPLE = "ACGTTGCAAGCTTGCATGCCTGCAGGTCGACTCTAGAGGATCCCCGGGTACCGAGCTCGAATTC"


def save_model(adapter: Path, target: Path) -> None:
    """Write an adapter as an MLflow model folder: its files, this project's `lingo`, a signature, an input example.

    Args:
        adapter: An exported adapter, see `lingo.predict.open_adapter`.
        target: A folder that does not exist yet.
    """
    import pandas as pd
    from mlflow import pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    from lingo.adapter_folder import read_facts

    facts = read_facts(adapter)
    names = facts.labels or tuple(map(str, range(facts.num_labels)))
    labels = ("value",) if facts.kind == "regression" and facts.num_labels == 1 else names
    pyfunc.save_model(
        path=str(target),
        python_model=str(Path(__file__).with_name("pyfunc_model.py")),
        artifacts={"adapter": str(adapter)},
        signature=ModelSignature(
            inputs=Schema([ColSpec("string", "sequence")]),
            outputs=Schema([ColSpec("double", label) for label in labels]),
        ),
        input_example=pd.DataFrame({"sequence": [EXAMPLE]}),
        code_paths=[str(Path(lingo.__file__).parent)],
        pip_requirements=[f"{name}=={metadata.version(name)}" for name in ("mlflow", *NEEDS)],
    )


def log_adapter(store: Store, study: Any, final: Any, record: Record, out: Path) -> str | None:
    """Log the adapter of a final run as a model, once.

    Args:
        store: Target store.
        study, final: The study's run, and that of the seed whose adapter it is.
        record: The record of that seed.
        out: Output folder.

    Returns:
        The model id; `None` if there is no adapter.
    """
    tags = store.client.get_run(study.info.run_id).data.tags
    made_of = f"{record.id} {record.ended}"
    if tags.get(MODEL_OF) == made_of and store.client.list_logged_model_artifacts(tags[MODEL]):
        return str(tags[MODEL])
    adapter = adapter_folder(out, record)
    if adapter is None:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        target, whole = Path(scratch) / "model", Path(scratch) / adapter.name
        whole.mkdir()
        _say_where(whole, copy_adapter(adapter, whole))
        save_model(whole, target)
        model = store.client.create_logged_model(
            store.experiment_id,
            name=record.study.translate(str.maketrans("/|:.%\"'", "-------")),
            source_run_id=final.info.run_id,
            tags=_texts({"task": record.task, "backbone": record.backbone, "method": record.method}),
            params=_texts({**record.config}),
            model_type="adapter",
        )
        store.client.log_model_artifacts(model.model_id, str(target))
        store.client.finalize_logged_model(model.model_id, "READY")
    _outputs(store, final, model.model_id)
    store.write(study, tags={MODEL: model.model_id, MODEL_OF: made_of})
    return str(model.model_id)


def _say_where(folder: Path, facts: Mapping[str, Any]) -> None:
    """Set the present path of the backbone in the copy of an adapter and its model card."""
    from lingo.adapter_folder import read_json
    from lingo.card import FACTS
    from lingo.folder import write_json

    was = read_json(folder / FACTS)["backbone"]["source"]
    write_json(folder / FACTS, facts)
    card = folder / "README.md"
    if card.is_file():
        text = card.read_text(encoding="utf-8").replace(was, facts["backbone"]["source"])
        card.write_text(text, encoding="utf-8")


def _outputs(store: Store, run: Any, model_id: str) -> None:
    from mlflow.entities import LoggedModelOutput

    store.client.log_outputs(run.info.run_id, [LoggedModelOutput(model_id, 0)])


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value)[:500] for name, value in values.items()}
