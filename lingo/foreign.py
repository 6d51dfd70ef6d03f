"""Methods of the library peft on a backbone, one trial at a time, without a pack: KronA and FedPara

A method's row names peft's configuration class and which settings of a trial are its arguments.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lingo.backbones import Backbone
from lingo.balance import first_bias
from lingo.data import TaskData
from lingo.heads import pooled_states, pooling_of
from lingo.packed_bits import numbers_in
from lingo.quantized import backbone_type
from lingo.single import GradientTrial, Network
from lingo.sites import target_paths
from lingo.streams import stream, stream_seed
from lingo.trial import TrialConfig

NEEDS_PEFT = "pip install 'lingo-bench[peft]'"


def peft_problem() -> str | None:
    """Why methods of peft cannot be used here, in one line; `None` if they can."""
    try:
        import peft
    except ImportError:
        return f"needs the library peft, which is not installed here: {NEEDS_PEFT}"
    return None if hasattr(peft, "LoKrConfig") else f"needs peft 0.21, but {peft.__version__} is installed."


class PeftNetwork(Network):
    """A backbone with the modules of one peft method, and a head as in `lingo.pack`.

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
        for module in self._tuned:  # the frozen layers stay in evaluation mode, without dropout
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
        """Restore the backbone's own layers."""
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
    """Seed PyTorch's global generator, from which peft draws, within the block, and restore it afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
