"""Exports of trials that train outside a pack: adapters of the library peft, and linear models on frozen features.

Beside the adapter, if there is one, the folder has the head in `head.safetensors` and embedding rows that the backbone
lacks in `embeddings.safetensors`, as in `lingo.export`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lingo.about import PROBE, About, Trained, settings_of, write_about
from lingo.backbones import Backbone
from lingo.card import HEAD, ROWS
from lingo.embeddings import last_rows
from lingo.folder import new_folder, write_tensors
from lingo.foreign import PeftNetwork
from lingo.single import GradientTrial, KmerTrial
from lingo.target import target_of


def export_peft(network: PeftNetwork, trial: GradientTrial, folder: Path, **known: Any) -> Path:
    """Write a trained adapter as a folder that `peft.PeftModel.from_pretrained` loads on `AutoModel`.

    Args:
        network, trial: What was trained.
        folder: Output folder, written atomically; its last part is created.
        known: Fields of `lingo.about.About`.

    Raises:
        ExportError: If `folder` holds something other than an earlier export, or `known` does not fit.
        OSError: If it cannot be written.
    """
    facts = trial.facts()
    training = {
        "steps": f"{trial.step} of {trial.total_steps}",
        "trained parameters": facts["trained_parameters"],
        "type of trained parameters": facts["trained_type"],
    }

    def write_adapter(new: Path) -> None:
        network.model.save_pretrained(str(new), save_embedding_layers=False)

    head = {"weight": network.head.weight, "bias": network.head.bias}
    layout, about = network.config.method, About(**known)
    return _export(network.backbone, trial, folder, head, training, about, layout, write_adapter)


def export_probe(trial: KmerTrial, backbone: Backbone, folder: Path, **known: Any) -> Path:
    """Write a fitted probe as a folder that `lingo.predict.open_adapter` reads; the scale of its features is part of
    the head's weights.

    Args:
        trial: The fitted model.
        backbone: The model that its features come from.
        folder, known: As of `export_peft`, which has the errors.
    """
    weight, bias = (torch.from_numpy(values).float() for values in trial.model.linear())
    training = {"trained parameters": trial.model.parameters}
    return _export(backbone, trial, folder, {"weight": weight, "bias": bias}, training, About(**known), PROBE)


def _export(
    backbone: Backbone,
    trial: GradientTrial | KmerTrial,
    folder: Path,
    head: Mapping[str, Tensor],
    training: Mapping[str, Any],
    about: About,
    layout: str,
    write_adapter: Callable[[Path], None] = lambda _: None,
) -> Path:
    about.check(backbone, trial.data, trial.config)
    target = target_of(backbone, trial.data, about.labels)
    trained = Trained(
        backbone=backbone,
        data=trial.data,
        config=trial.config,
        step=trial.step,
        total_steps=trial.total_steps,
        training={**training, **settings_of(trial.config)},
    )
    with new_folder(folder) as new:
        write_adapter(new)
        write_tensors(new / HEAD, dict(head))
        if about.new_tokens:
            write_tensors(new / ROWS, {"rows": last_rows(backbone, about.new_tokens)})
        write_about(new, trained, target, about, layout=layout)
    return folder
