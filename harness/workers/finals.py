"""End of a final run: restore the best weights, evaluate the test split once, save adapter and predictions."""

import logging
from typing import Any

from harness.data.prepared import read_label_names
from harness.pool.files import Files
from harness.runs.layout import file_name
from harness.workers.adapter_files import save_adapter
from harness.workers.best_epoch import tested_facts
from harness.workers.evaluation import (
    at_thresholds,
    dev_predictions,
    final_facts,
    final_predictions,
    write_predictions,
)
from harness.workers.training import Training
from lingo.pack import Pack
from lingo.state import put_weights
from lingo.target import ExportError

log = logging.getLogger(__name__)


def restore_best(pack: Pack, training: Training) -> dict[str, Any]:
    """Restore the weights of the best evaluation of a final run with patience; returns facts about the tested
    weights."""
    slot, job, best = training.slot, training.job, training.best
    if job.stage != "final":
        return {}
    assert slot is not None
    if best is not None and best.epoch != training.epoch:
        put_weights(pack, slot, best.weights)
    return tested_facts(
        job,
        stopped=training.epoch,
        best=(best.epoch, best.dev) if best is not None else None,
        counts_from=training.counts_from,
    )


def take_test(
    pack: Pack, training: Training, files: Files, *, keep: bool
) -> tuple[dict[str, float], dict[str, Any]]:
    """Test metrics and their facts; one worker of a group (`keep`) also writes the predictions."""
    slot, job = training.slot, training.job
    assert slot is not None
    logits, labels = final_predictions(pack, slot, training.folder)
    kind = slot.data.kind
    names = read_label_names(training.folder)
    train = slot.data.train.labels
    moved, scores, told = at_thresholds(
        slot.config, kind, logits, labels, lambda: dev_predictions(pack, slot, training.folder)
    )
    facts = final_facts(kind, logits, labels, train_labels=train, names=names, moved=moved, metric=job.metric)
    facts |= told
    if keep and job.predictions:
        target = f"{job.predictions}/{file_name(job.id).removesuffix('.json')}.parquet"
        try:
            local = files.place(target)
            local.parent.mkdir(parents=True, exist_ok=True)
            write_predictions(local, kind, logits, labels)
            files.send(local, target)
            facts["predictions"] = target
        except OSError as problem:
            log.warning("no test predictions of %s: %s", job.id, problem)
            facts["predictions_error"] = str(problem)
    return scores, facts


def keep_adapter(pack: Pack, training: Training, files: Files, facts: dict[str, Any]) -> dict[str, Any]:
    """Write the trained adapter in peft's layout. A disk error loses the file, not the result."""
    slot, job = training.slot, training.job
    assert slot is not None and job.adapter is not None
    try:
        folder = files.place(job.adapter)
        card = {"task": slot.data.name, "study": job.study, **facts}
        digest = save_adapter(pack, slot, folder, training.folder, card)
        files.send(folder, job.adapter)
    except (ExportError, OSError) as problem:
        log.warning("no adapter of %s: %s", job.id, problem)
        return {"adapter_error": str(problem)}
    return {"adapter": job.adapter, "adapter_digest": digest}
