"""A baseline without a backbone: logistic regression on counts of k-mers (ridge regression for numbers)."""

from lingo.methods.base import Baseline

METHOD = Baseline(
    name="kmer_logreg",
    title="k-mer logistic regression",
    own=frozenset({"k", "C"}),
)
