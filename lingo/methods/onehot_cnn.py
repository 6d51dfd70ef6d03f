"""A baseline without a backbone: a small convolutional network on one-hot bases, from scratch."""

from lingo.methods.base import TRAINING, Method

METHOD = Method(
    name="onehot_cnn",
    title="one-hot CNN",
    adapter="none",
    engine="simple",
    needs_backbone=False,
    own=TRAINING | {"filters", "kernel_width", "dropout"},
)
