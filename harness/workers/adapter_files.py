"""The adapter that a final run leaves: written by its worker, with what prediction needs to know of the data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.data.prepared import read_label_names, read_recipe
from lingo.adapter_folder import adapter_digest
from lingo.export import export_adapter
from lingo.pack import Pack
from lingo.prompts import Prompt
from lingo.slot import Slot
from lingo.tokenization import NO_PROMPT

UNITS = ("tokenization", "first_id", "new_tokens")
"""Of a prepared task's recipe: what makes its tokens differ from the tokenizer's own."""


def input_of(data: Path | str) -> dict[str, Any]:
    """How the input of a prepared task was built, as arguments of `lingo.export.export_adapter`."""
    recipe = read_recipe(data)
    labels: Sequence[str] = read_label_names(data)
    return {
        "prompt": Prompt(*recipe["prompt"]) if recipe["prompt"] else NO_PROMPT,
        "max_length": recipe["max_length"],
        "labels": labels,
        "tokenization": {name: recipe[name] for name in UNITS} if "tokenization" in recipe else None,
        "long": recipe.get("long", "truncate"),
        "both_strands": recipe.get("strands", "none") in ("test", "both"),
        "case": recipe.get("case", "upper"),
        "pair": recipe.get("pair"),
    }


def save_adapter(pack: Pack, slot: Slot, folder: Path, data: Path | str, card: Mapping[str, Any]) -> str:
    """Write a trained slot as an adapter folder, see `lingo.export.export_adapter`.

    Args:
        pack, slot: What was trained.
        folder: Where to; made whole or not at all.
        data: Folder of the prepared task.
        card: Measured facts for the model card.

    Returns:
        Digest of the folder, see `adapter_digest`.

    Raises:
        ExportError: If there is no adapter.
        OSError: If the disk refuses.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    export_adapter(pack, slot, folder, card=card, thresholds=card.get("threshold", ()), **input_of(data))
    return adapter_digest(folder)
