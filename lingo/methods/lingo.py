"""Lingo: adaptive rank sampling with the language prefix and suffix (paper sections 4.3.1 and 4.3.3)."""

from lingo.methods.base import Method

METHOD = Method(name="lingo", title="Lingo", adapter="svd", sampled=True, rank_update="held", prompt=True)
