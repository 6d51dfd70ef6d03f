"""Adapters exported from a run, and predictions with them."""
