"""Copies of adapters from an output folder, which may have been moved since the run."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

BACKBONE = "backbone"
"""Folder of the quickstart's backbone inside an export; it is available nowhere else."""

LARGEST = 16 * 2**20
"""Size limit in bytes of a backbone that is copied with its adapter."""


def copy_adapter(source: Path, target: Path) -> dict[str, Any]:
    """Copy an adapter's files so that they can be used anywhere on this machine.

    The quickstart's backbone is copied to `backbone/`; any other is referenced by its absolute path or hub id.

    Args:
        source: An exported adapter.
        target: An existing folder; its `lingo.json` and model card are not changed.

    Returns:
        What its `lingo.json` should say.

    Raises:
        AdapterError: If `source` is not a complete export.
    """
    from lingo.adapter_folder import read_facts, read_json
    from lingo.card import FACTS
    from lingo.folder import write_json

    place, facts = read_facts(source).place, read_json(source / FACTS)
    for path in sorted(source.iterdir()):
        if path.is_file():
            shutil.copyfile(path, target / path.name)
    backbone = dict(facts["backbone"])
    if not backbone["trained"] and _carry(place, target / BACKBONE, backbone["digest"]):
        backbone["source"] = BACKBONE
        if (target / "adapter_config.json").is_file():  # a probe has none
            settings = read_json(target / "adapter_config.json") | {"base_model_name_or_path": BACKBONE}
            write_json(target / "adapter_config.json", settings)
    return facts | {"backbone": backbone}


def _carry(place: str, target: Path, digest: str) -> bool:
    """Copy the backbone at `place` to `target`, or generate it there as the quickstart does. Returns whether its
    digest is the expected one."""
    from harness.data.quickstart import make_backbone
    from lingo import checkpoint

    folder = Path(place)
    if (folder / "config.json").is_file():
        files = {
            folder / "config.json",
            *checkpoint.weight_files(folder),
            *checkpoint.tokenizer_files(folder),
        }
        if sum(path.stat().st_size for path in files) > LARGEST or checkpoint.digest(folder) != digest:
            return False
        target.mkdir()
        for path in files:
            shutil.copyfile(path, target / path.name)
        return True
    with tempfile.TemporaryDirectory() as scratch:
        made = make_backbone(Path(scratch) / BACKBONE)
        if checkpoint.digest(made) != digest:
            return False
        shutil.copytree(made, target)
    return True
