"""Methods of the library peft on a backbone, one trial at a time, without a pack: KronA and FedPara

A method's row names peft's configuration class and which settings of a trial are its arguments.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lingo.about import About, Trained, settings_of, write_about
from lingo.backbones import Backbone
from lingo.balance import first_bias
from lingo.card import HEAD, ROWS
from lingo.data import TaskData
from lingo.embeddings import last_rows
from lingo.folder import new_folder, write_tensors
from lingo.heads import pooled_states, pooling_of
from lingo.packed_bits import numbers_in
from lingo.quantized import backbone_type
from lingo.single import GradientTrial, Network
from lingo.sites import target_paths
from lingo.streams import stream, stream_seed
from lingo.target import target_of
from lingo.trial import TrialConfig

NEEDS_PEFT = "pip install 'lingo-bench[peft]'"


def peft_problem() -> str | None:
    """Why methods of peft cannot be used here, in one line; `None` when they can."""
    try:
        import peft
    except ImportError:
        return f"needs the library peft, which is not installed here: {NEEDS_PEFT}"
    return None if hasattr(peft, "LoKrConfig") else f"needs peft 0.21, but {peft.__version__} is installed."


class PeftNetwork(Network):
    """A backbone with the modules of one peft method, and a head as `lingo.pack` has it.

    The backbone's modules are changed in place until `detach`.

    Raises:
        ValueError: If peft is not installed, or refuses the configuration or the backbone's layers.
    """

    def __init__(self, backbone: Backbone, config: TrialConfig, data: TaskData) -> None:
        super().__init__()
        problem = peft_problem()
        if problem is not None:
            raise ValueError(f"`{config.method}` {problem}")
        import peft

        device = next(backbone.model.parameters()).device
        paths = list(target_paths(backbone, config.targets))
        self.backbone, self.config = backbone, config
        self._how = pooling_of(config.pooling, backbone.pooling)
        with _drawing(stream_seed(config.seed, "init"), device):
            try:
                self.model = peft.get_peft_model(backbone.model, config.kind.peft_config(config, paths))
            except (TypeError, ValueError, NotImplementedError) as error:
                line = " ".join(str(error).split())[:300]
                raise ValueError(f"`{config.method}` of peft cannot adapt {backbone.name}: {line}") from None
        weight = torch.empty(data.num_labels, backbone.hidden_size)
        self.head = nn.utils.skip_init(nn.Linear, backbone.hidden_size, data.num_labels, device=device)
        with torch.no_grad():
            self.head.weight.copy_(weight.normal_(std=0.02, generator=stream(config.seed, "head")))
            self.head.bias.copy_(torch.from_numpy(first_bias(config, data)))
        self._tuned = [module for module in self.model.modules() if _is_tuner_layer(module)]

    def logits(self, ids: Tensor, lengths: Tensor, generator: torch.Generator | None) -> Tensor:
        training = generator is not None
        for module in self._tuned:  # the frozen layers stay as they are, without dropout
            module.train(training)
        seed = generator.initial_seed() if generator is not None else 0
        with _drawing(seed, ids.device):
            pooled = pooled_states(self.backbone, ids, lengths, [self._how])
        logits: Tensor = self.head(pooled.to(self.head.weight.dtype))
        return logits

    def facts(self) -> dict[str, Any]:
        base = sum(numbers_in(p) for p in self.model.parameters() if not p.requires_grad)
        kind = backbone_type(self.backbone)
        return {"total_parameters": base, "backbone_digest": self.backbone.digest, "backbone_type": kind}

    def detach(self) -> None:
        """Give the backbone its own layers back."""
        self.model.base_model.unload()
        if hasattr(self.backbone.model, "peft_config"):
            del self.backbone.model.peft_config
        self.backbone.model.eval().requires_grad_(False)


def peft_trial(
    backbone: Backbone, config: TrialConfig, data: TaskData, *, device: str = "cpu"
) -> GradientTrial:
    """A trial of a peft method; its network is detached by the caller. Raises `ValueError` as `PeftNetwork`."""
    problems = config.problems()
    if problems:
        raise ValueError("\n".join(problems))
    return GradientTrial(PeftNetwork(backbone, config, data), config, data, device=device)


def _is_tuner_layer(module: nn.Module) -> bool:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(module, BaseTunerLayer)


@contextlib.contextmanager
def _drawing(seed: int, device: torch.device) -> Iterator[None]:
    """peft draws from PyTorch's global generator: seed it for the while, and put it back as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def export_peft(network: PeftNetwork, trial: GradientTrial, folder: Path, **known: Any) -> Path:
    """Write a trained adapter as a folder that `peft.PeftModel.from_pretrained` loads on `AutoModel`.

    The head is in `head.safetensors`, embedding rows that the backbone lacks in a file of their own, as in
    `lingo.export`. The folder is complete or not there at all.

    Args:
        network, trial: What was trained.
        folder: Where to; its last part is created.
        known: Fields of `lingo.about.About`.

    Raises:
        ExportError: If `folder` holds something that is not an earlier export, or `about` does not fit.
        OSError: If the disk refuses.
    """
    backbone, config, about = network.backbone, network.config, About(**known)
    target = target_of(backbone, trial.data, about.labels)
    count = trial.facts()["trained_parameters"]
    trained = Trained(
        backbone=backbone,
        data=trial.data,
        config=config,
        step=trial.step,
        total_steps=trial.total_steps,
        training={
            "steps": f"{trial.step} of {trial.total_steps}",
            "trained parameters": count,
            "type of trained parameters": trial.facts()["trained_type"],
        }
        | settings_of(config),
    )
    with new_folder(folder) as new:
        network.model.save_pretrained(str(new), save_embedding_layers=False)
        write_tensors(new / HEAD, {"weight": network.head.weight, "bias": network.head.bias})
        if about.new_tokens:
            write_tensors(new / ROWS, {"rows": last_rows(backbone, about.new_tokens)})
        write_about(new, trained, target, about, layout=config.method)
    return folder
