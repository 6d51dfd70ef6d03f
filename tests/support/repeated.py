"""What of a record must be the same in a repetition."""

from collections.abc import Mapping
from typing import Any

OTHER = {"device_seconds", "adapter", "adapter_digest", "predictions"}
"""Facts that are times, or paths, or digests of files with paths in them."""


def repeated(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts without times and places; of a curve its numbers without their times."""
    told = {name: value for name, value in facts.items() if name not in OTHER}
    if told.get("train_losses"):
        told["train_losses"] = {k: v for k, v in told["train_losses"].items() if k != "seconds"}
    return told
