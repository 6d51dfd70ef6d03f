"""LoRA (arXiv:2106.09685): W0 + (α/r)·P Q with a fixed rank."""

from lingo.methods.base import Method

METHOD = Method(name="lora", title="LoRA", adapter="lora")
