"""FedPara (arXiv:2108.06098) as peft has it, LoHa: W0 + (α/r)·(A B) ⊙ (C D), each product of rank r."""

from lingo.methods.base import PeftMethod

METHOD = PeftMethod(
    name="loha",
    title="FedPara",
    peft="LoHaConfig",
    arguments={"r": "rank", "alpha": "alpha", "rank_dropout": "adapter_dropout"},
)
