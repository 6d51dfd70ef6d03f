"""DoRA (arXiv:2402.09353) as peft has it: LoRA with the length of each column learned apart."""

from lingo.methods.base import Method

METHOD = Method(
    name="dora",
    title="DoRA",
    adapter="peft",
    engine="peft",
    peft="LoraConfig",
    arguments={"r": "rank", "lora_alpha": "alpha", "lora_dropout": "adapter_dropout"},
    constants={"use_dora": True},
)
