"""What a config.json says about the code that its model was published with. That code is never run."""

from collections.abc import Mapping
from typing import Any


def names_only(fields: Mapping[str, Any], *modules: str) -> bool:
    """Whether every class that `auto_map` names is of one of these modules, so that no other model with the same
    fields is taken for the one of this project. True where there is no `auto_map`."""
    code = fields.get("auto_map") or {}
    # A hub id may stand before the module: owner/model--bert_layers.BertModel.
    named = [str(path).rpartition("--")[2] for path in code.values()] if isinstance(code, Mapping) else [""]
    return all(path.startswith(tuple(f"{module}." for module in modules)) for path in named)
