"""The search: Optuna's proposals and early stopping, in one Ray Tune run for all studies."""
