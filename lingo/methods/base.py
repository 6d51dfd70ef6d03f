"""Interface of methods: traits and hooks used by trainer, search and report."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

if TYPE_CHECKING:  # names and settings of methods are needed without torch
    import torch
    from torch import Tensor, nn

Engine = Literal["pack", "simple", "peft", "probe"]
Outputs = Literal["none", "scales", "lengths"]
RankUpdate = Literal["in_place", "held", "published_code"]

TRAINING = frozenset({"learning_rate", "lr_schedule", "warmup_ratio", "weight_decay", "max_grad_norm"})
HEADED = TRAINING | {"pooling"}
"""Settings of training a backbone with a head on it."""
ADAPTED = frozenset({"alpha", "adapter_dropout", "targets"})
BUDGETED = frozenset(
    {
        "b0",
        "bT",
        "delta_T",
        "beta1",
        "beta2",
        "initial_warmup_ratio",
        "final_finetune_ratio",
        "rank_update",
        "orthogonality",
    }
)


class Start(NamedTuple):
    """First values of one matrix's adapter: P [d_in, r], Q [r, d_out], λ of each rank, and the number of each output
    that a method with `outputs` trains, [d_out]."""

    p: "Tensor"
    q: "Tensor"
    lam: float = 0.0
    outputs: "Tensor | None" = None


class Matrix(NamedTuple):
    """A frozen matrix: the layer that holds it, d_in, d_out, and its numbers [d_out, d_in], made on demand."""

    layer: "nn.Module"
    d_in: int
    d_out: int
    weight: "Callable[[], Tensor]"


class Products(NamedTuple):
    """FLOPs beside those of LoRA's own products."""

    forward: float = 0.0
    backward: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method for solving a task: adaptation of a backbone, or a simple baseline without one. Hooks take the trial's
    `lingo.trial.TrialConfig`.

    Attributes:
        name: Name on the command line, in search spaces and in results.
        title: Name in tables and plots.
        prompt: Whether the sequence stands in the language prefix and suffix (paper section 4.3.1).
        engine: Engine that trains it: `pack` (`lingo.pack`), `peft` (`lingo.foreign`, one trial at a time), `probe` (a
            linear model on frozen features, one at a time) or `simple` (a baseline, one at a time).
        needs_backbone: Whether it adapts a pretrained model; a baseline reads the sequence's bases alone.
        trains_all: Whether every weight is trained, without adapters.
        has_budget: Whether it has singular values on a budget of ranks.
        sampled: Whether equation 4 of the paper draws singular values at each allocation.
        rank_update: The default treatment of singular values that are not kept.
        rank_setting: The setting that bounds the ranks of a matrix; empty without one.
        outputs: What the trained numbers of each output are: `none` of them, `scales` of Q's columns, P and Q being
            fixed (VeRA), or `lengths` of the adapted matrix's rows (DoRA).
        principal: Whether W0 is without its largest singular values, from which P and Q start (PiSSA).
        by_default: Whether a benchmark without `--methods` includes it.
    """

    name: str
    title: str
    prompt: bool = False
    by_default: bool = True
    sampled: bool = False
    rank_update: RankUpdate = "in_place"
    engine: ClassVar[Engine] = "pack"
    needs_backbone: ClassVar[bool] = True
    trains_all: ClassVar[bool] = False
    has_budget: ClassVar[bool] = False
    rank_setting: ClassVar[str] = ""
    outputs: ClassVar[Outputs] = "none"
    principal: ClassVar[bool] = False

    @property
    def settings(self) -> frozenset[str]:
        """The settings of a trial that this method uses and its search space may contain."""
        return HEADED

    @property
    def packs(self) -> bool:
        """Whether several of its trials train together on one backbone."""
        return self.engine == "pack" and not self.trains_all

    @property
    def in_steps(self) -> bool:
        """Whether it is trained step by step; others are fitted at once."""
        return "learning_rate" in self.settings

    def rank(self, config: Any) -> int:
        """Initial rank of each adapted matrix, 0 for methods without ranks."""
        return int(getattr(config, self.rank_setting)) if self.rank_setting else 0

    def scale(self, config: Any) -> float:
        """Factor s of the update s · P Λ Q."""
        return 1.0

    def rate_ratio(self, config: Any) -> float:
        """Learning rate of Q and of the head's bias, over that of all others."""
        return 1.0

    def start(
        self, config: Any, matrices: "Sequence[Matrix]", generator: "torch.Generator"
    ) -> "Iterator[Start]":
        """Initial values of the adapters of these matrices, in layer order."""
        raise TypeError(f"{self.name} has no low-rank factors.")

    def size(self, rank: int, d_in: int, d_out: int) -> int:
        """Number of trained parameters of one matrix's adapter."""
        return 0

    def products(self, config: Any, *, tokens: float, d_in: int, d_out: int, needs_grad: bool) -> "Products":
        """Cost of a step of one matrix beside LoRA's products; `needs_grad` says whether its input needs a
        gradient."""
        return Products()

    def peft_config(self, config: Any, paths: Sequence[str]) -> Any:
        """peft's configuration for the modules at `paths`; of `engine` `peft` alone."""
        raise TypeError(f"{self.name} is not trained by peft.")


@dataclass(frozen=True, kw_only=True)
class FullFineTuning(Method):
    """Trains every weight of the backbone."""

    trains_all: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class LowRank(Method):
    """LoRA: W0 + (α/r)·P Q with a fixed rank."""

    rank_setting: ClassVar[str] = "rank"

    @property
    def settings(self) -> frozenset[str]:
        return HEADED | ADAPTED | {"rank"}

    def scale(self, config: Any) -> float:
        """α/r."""
        return config.alpha / config.rank

    def start(
        self, config: Any, matrices: "Sequence[Matrix]", generator: "torch.Generator"
    ) -> "Iterator[Start]":
        for matrix in matrices:
            yield Start(*self.draw(matrix.d_in, matrix.d_out, self.rank(config), generator))

    def size(self, rank: int, d_in: int, d_out: int) -> int:
        return rank * (d_in + d_out)

    def draw(self, d_in: int, d_out: int, rank: int, generator: "torch.Generator") -> "tuple[Tensor, Tensor]":
        """P uniform in ±1/√d_in, Q zero: peft's default (Kaiming uniform with a = √5)."""
        import torch

        bound = 1 / math.sqrt(d_in)
        return torch.empty(rank, d_in).uniform_(-bound, bound, generator=generator).t(), torch.zeros(
            rank, d_out
        )

    def peft_settings(self, config: Any) -> dict[str, Any]:
        """What an export's `adapter_config.json` says beside rank, α and dropout."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Budgeted(LowRank):
    """AdaLoRA, and adaptive rank sampling: W0 + s·P Λ Q with singular values on a budget."""

    has_budget: ClassVar[bool] = True
    rank_setting: ClassVar[str] = "b0"

    @property
    def settings(self) -> frozenset[str]:
        return HEADED | ADAPTED | BUDGETED | ({"p"} if self.sampled else frozenset())

    def scale(self, config: Any) -> float:
        """α/(b0 + 1e-5), as in peft."""
        return config.alpha / (config.b0 + 1e-5)

    def size(self, rank: int, d_in: int, d_out: int) -> int:
        return rank * (d_in + d_out + 1)

    def draw(self, d_in: int, d_out: int, rank: int, generator: "torch.Generator") -> "tuple[Tensor, Tensor]":
        """P and Q normal with standard deviation 0.02; Λ starts at zero."""
        import torch

        p = torch.empty(rank, d_in).normal_(std=0.02, generator=generator).t()
        return p, torch.empty(d_out, rank).normal_(std=0.02, generator=generator).t()


@dataclass(frozen=True, kw_only=True)
class PeftMethod(Method):
    """What a configuration class of the library peft adds.

    Attributes:
        peft: The class, such as `LoKrConfig`.
        arguments: Arguments of that class that are settings of the trial, by the settings' names.
        constants: Arguments of that class with one value.
    """

    peft: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    by_default: bool = False
    engine: ClassVar[Engine] = "peft"

    @property
    def settings(self) -> frozenset[str]:
        return HEADED | {"targets", *self.arguments.values()}

    def peft_config(self, config: Any, paths: Sequence[str]) -> Any:
        import peft

        given = {name: getattr(config, setting) for name, setting in self.arguments.items()}
        return getattr(peft, self.peft)(target_modules=list(paths), **given, **self.constants)


@dataclass(frozen=True, kw_only=True)
class Probe(Method):
    """A linear model on features of the frozen backbone."""

    engine: ClassVar[Engine] = "probe"

    @property
    def settings(self) -> frozenset[str]:
        return frozenset({"C", "depth", "feature_scaling", "pooling"})


@dataclass(frozen=True, kw_only=True)
class Baseline(Method):
    """A model without a backbone.

    Attributes:
        own: The settings of `lingo.trial.TrialConfig` that it reads.
    """

    own: frozenset[str]
    engine: ClassVar[Engine] = "simple"
    needs_backbone: ClassVar[bool] = False
    trains_all: ClassVar[bool] = True

    @property
    def settings(self) -> frozenset[str]:
        return self.own
