"""A baseline without a backbone: a small convolutional network on one-hot bases, from scratch."""

from lingo.methods.base import TRAINING, Baseline

METHOD = Baseline(
    name="onehot_cnn",
    title="one-hot CNN",
    own=TRAINING | {"filters", "kernel_width", "dropout"},
)
