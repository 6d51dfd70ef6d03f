"""A slot as a complete model, by the steps of `export --merge`."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lingo.adapter_folder import read_json
from lingo.card import FACTS, card_text
from lingo.export import export_adapter
from lingo.folder import new_folder, write_json
from lingo.merge import write_merged
from lingo.pack import Pack
from lingo.predict import open_adapter
from lingo.slot import Slot


def merge(pack: Pack, slot: Slot, folder: Path, *, card: Mapping[str, Any], **options: Any) -> Path:
    """Export the adapter, open it again, and write it merged into its backbone, with a model card.

    Args:
        options: Further arguments of `lingo.export.export_adapter`.
    """
    with tempfile.TemporaryDirectory() as scratch, new_folder(folder) as new:
        adapter = export_adapter(pack, slot, Path(scratch) / "adapter", card=card, **options)
        facts = write_merged(new, open_adapter(adapter, frozen="fp32"), read_json(adapter / FACTS))
        write_json(new / FACTS, facts)
        (new / "README.md").write_text(card_text(facts, {"Measured": card}), encoding="utf-8")
    return folder
