"""Logistic (ridge) regression on frozen features: what the backbone knows before it is adapted."""

from lingo.methods.base import Probe

METHOD = Probe(name="probe", title="frozen probe")
