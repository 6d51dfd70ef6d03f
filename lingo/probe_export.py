"""A linear model on frozen features as an export: a head in its own file, on features that are not scaled."""

from pathlib import Path
from typing import Any

import torch

from lingo.about import PROBE, About, Trained, settings_of, write_about
from lingo.backbones import Backbone
from lingo.card import HEAD, ROWS
from lingo.embeddings import last_rows
from lingo.folder import new_folder, write_tensors
from lingo.single import KmerTrial
from lingo.target import target_of


def export_probe(trial: KmerTrial, backbone: Backbone, folder: Path, **known: Any) -> Path:
    """Write a fitted probe as a folder that `lingo.predict.open_adapter` reads. The scale of its features is in the
    head's weights. The folder is complete or not there at all.

    Args:
        trial: What was fitted.
        backbone: What its features are of.
        folder: Where to; its last part is created.
        known: Fields of `lingo.about.About`.

    Raises:
        ExportError: If `folder` holds something that is not an earlier export, or `about` does not fit.
        OSError: If the disk refuses.
    """
    about, config = About(**known), trial.config
    about.check(backbone, trial.data, config)
    target = target_of(backbone, trial.data, about.labels)
    weight, bias = (torch.from_numpy(values).float() for values in trial.model.linear())
    trained = Trained(
        backbone=backbone,
        data=trial.data,
        config=config,
        step=trial.step,
        total_steps=trial.total_steps,
        training={"trained parameters": trial.model.parameters} | settings_of(config),
    )
    with new_folder(folder) as new:
        write_tensors(new / HEAD, {"weight": weight, "bias": bias})
        if about.new_tokens:
            write_tensors(new / ROWS, {"rows": last_rows(backbone, about.new_tokens)})
        write_about(new, trained, target, about, layout=PROBE)
    return folder
