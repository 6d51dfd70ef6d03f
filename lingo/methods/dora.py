"""DoRA (arXiv:2402.09353) as peft has it: LoRA with the length of each column learned apart."""

from lingo.methods.base import PeftMethod

METHOD = PeftMethod(
    name="dora",
    title="DoRA",
    peft="LoraConfig",
    arguments={"r": "rank", "lora_alpha": "alpha", "lora_dropout": "adapter_dropout"},
    constants={"use_dora": True},
)
