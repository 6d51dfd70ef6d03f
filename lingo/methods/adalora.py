"""AdaLoRA (arXiv:2303.10512): W0 + (α/b0)·P Λ Q, the least important singular values zeroed on a budget."""

from lingo.methods.base import Budgeted

METHOD = Budgeted(name="adalora", title="AdaLoRA")
