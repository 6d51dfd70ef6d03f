"""Adaptive rank sampling (paper section 4.3.3): AdaLoRA's budget, with Bernoulli-drawn masks (equation 4)."""

from lingo.methods.base import Budgeted

# `held` by experiment (docs/rank_update.md): with it a draw costs least.
METHOD = Budgeted(name="ars", title="ARS", sampled=True, rank_update="held")
