"""Fields of a config.json about the code published with its model. That code is never run."""

from collections.abc import Mapping
from typing import Any


def names_only(fields: Mapping[str, Any], *modules: str) -> bool:
    """Whether every class in `auto_map` is from one of these modules, so that no other model with the same fields is
    mistaken for this project's. True without `auto_map`."""
    code = fields.get("auto_map") or {}
    # A hub id may precede the module: owner/model--bert_layers.BertModel.
    named = [str(path).rpartition("--")[2] for path in code.values()] if isinstance(code, Mapping) else [""]
    return all(path.startswith(tuple(f"{module}." for module in modules)) for path in named)


def own_fields(fields: Mapping[str, Any], *left_out: str) -> dict[str, Any]:
    """The fields of a config.json that a configuration of this project accepts."""
    return {
        name: value for name, value in fields.items() if name not in ("auto_map", "model_type", *left_out)
    }


def refuse_variants(fields: Mapping[str, Any], fixed: Mapping[str, Any], *, inside: str = "") -> None:
    """Raise `ValueError` for a field whose value differs from that of all public checkpoints; a missing or null field
    has that value."""
    for name, value in fixed.items():
        if fields.get(name) not in (value, None):
            raise ValueError(f"`{inside}{name}` must be {value!r}, but got {fields[name]!r}")


class PaddedVocabulary:
    """A configuration whose embedding has more rows than `vocab_size`."""

    vocab_size: int
    pad_vocab_size_multiple: int

    @property
    def rows(self) -> int:
        """Rows of the embedding: `vocab_size`, up to a multiple."""
        return -(-self.vocab_size // self.pad_vocab_size_multiple) * self.pad_vocab_size_multiple
