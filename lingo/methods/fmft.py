"""Full-model fine-tuning: every weight of the backbone is trained, without a prompt."""

from lingo.methods.base import FullFineTuning

METHOD = FullFineTuning(name="fmft", title="FMFT")
