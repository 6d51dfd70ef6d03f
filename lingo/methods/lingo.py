"""Lingo: adaptive rank sampling with the language prefix and suffix (paper sections 4.3.1 and 4.3.3)."""

from lingo.methods.base import Budgeted

METHOD = Budgeted(name="lingo", title="Lingo", sampled=True, rank_update="held", prompt=True)
