"""Full-model fine-tuning: every weight of the backbone is trained, without a prompt."""

from lingo.methods.base import Method

METHOD = Method(name="fmft", title="FMFT", adapter="none")
