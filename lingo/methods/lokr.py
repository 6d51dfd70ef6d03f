"""KronA (arXiv:2212.10650) as peft has it, LoKr: W0 + (α/r)·A ⊗ B, the larger factor of rank r."""

from lingo.methods.base import PeftMethod

METHOD = PeftMethod(
    name="lokr",
    title="KronA",
    peft="LoKrConfig",
    arguments={"r": "rank", "alpha": "alpha", "rank_dropout": "adapter_dropout"},
)
