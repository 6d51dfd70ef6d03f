"""LoRA (arXiv:2106.09685): W0 + (α/r)·P Q with a fixed rank."""

from lingo.methods.base import LowRank

METHOD = LowRank(name="lora", title="LoRA")
