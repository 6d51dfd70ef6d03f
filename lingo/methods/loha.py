"""FedPara (arXiv:2108.06098) as peft has it, LoHa: W0 + (α/r)·(A B) ⊙ (C D), each product of rank r."""

from lingo.methods.base import Method

METHOD = Method(
    name="loha",
    title="FedPara",
    adapter="peft",
    engine="peft",
    peft="LoHaConfig",
    arguments={"r": "rank", "alpha": "alpha", "rank_dropout": "adapter_dropout"},
)
