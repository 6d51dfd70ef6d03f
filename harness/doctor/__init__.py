"""Checks of a machine, and of every node of a cluster, before a run."""
