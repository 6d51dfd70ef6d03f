"""A baseline without a backbone: logistic regression on counts of k-mers (ridge regression for numbers)."""

from lingo.methods.base import Method

METHOD = Method(
    name="kmer_logreg",
    title="k-mer logistic regression",
    adapter="none",
    engine="simple",
    needs_backbone=False,
    own=frozenset({"k", "C"}),
)
