"""Backbones: pretrained models without a head, with every tensor compared to their checkpoint.

Code from a checkpoint never runs. Known architectures and models are in `lingo.families`; for every other class of
transformers `lingo.architectures` derives what it can, and `lingo.probe` determines the rest by experiment.
"""

import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.core_model_loading import revert_weight_conversion
from transformers.pytorch_utils import Conv1D

from lingo import architectures, checkpoint, own_models
from lingo.architectures import family_of
from lingo.backbone_folder import folder_problems, locate, quiet, read_config, read_tokenizer
from lingo.checkpoint import BackboneError
from lingo.families import Family, Pooling
from lingo.fresh import renew
from lingo.fresh_names import fresh_name, parts_of
from lingo.masks import unread
from lingo.probe import Behaviour, probe
from lingo.text_files import one_line

# Buffers that older checkpoints store and newer code computes, and heads of the pretraining task.
NOT_WEIGHTS = (".position_ids", ".token_type_ids", ".inv_freq", ".attn.bias", ".attn.masked_bias")
HEADS = ("lm_head.", "cls.", "pooler.", "contact_head.", "score.", "classifier.", "standalone_head.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Backbone:
    """A pretrained model without head, frozen and in evaluation mode, and what is needed to adapt it.

    Attributes:
        name: As requested: a known name, a hub id or a folder.
        model: Maps ids `[B, S]` and attention mask `[B, S]` to `last_hidden_state` `[B, S, hidden_size]`.
        tokenizer: The backbone's own; pads on the right.
        hidden_size: Width of `last_hidden_state` (differs from the layers' width in OPT-350M).
        max_length: Number of positions of the model or its training, special tokens included.
        causal: Whether a token attends to preceding tokens only.
        pad_id: Token id for padding.
        pooling: Which hidden state a head reads; `last` is that of the last token before padding.
        matrices: The paper's names W_q, W_k, W_v, W_o, W_f1, W_f2 to module paths in layer order. A fused projection
            is listed under each of its names; a gated MLP has two modules per layer under W_f1. A matrix without a
            name in the paper is listed under its own.
        trained: False if config.json has `"untrained": true` (random weights for demonstrations).
        digest: sha256 of weights, configuration and tokenizer.
        source: Folder as an absolute path, or `hub id@commit`.
        window: Tokens of a chunk of longer rows, see `lingo.heads.pooled_states`; 0 where rows have no chunks.
    """

    name: str
    model: nn.Module
    tokenizer: Any
    hidden_size: int
    max_length: int
    causal: bool
    pad_id: int
    pooling: Pooling
    matrices: dict[str, list[str]]
    trained: bool
    digest: str
    source: str
    window: int = 0

    def states(self, ids: torch.Tensor, lengths: torch.Tensor, *, padded: bool = True) -> torch.Tensor:
        """Last hidden states [B, S, hidden_size] of ids [B, S], right-padded after `lengths` [B].

        Args:
            padded: False if the caller knows that every row has S tokens; nothing here waits for the device.
        """
        mask = None  # in a causal model, padding on the right does not affect earlier tokens
        if padded and not self.causal:
            mask = (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).long()
        with unread(causal=self.causal):
            states: torch.Tensor = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return states


def load_backbone(
    name_or_path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    revision: str | None = None,
) -> Backbone:
    """Load a backbone and compare every tensor of its checkpoint with the loaded model.

    Args:
        name_or_path: A name of `KNOWN`, a hub id `owner/model`, or a folder in the hub's layout (no network); with
            fresh weights what `lingo.fresh_names.fresh_name` makes of these.
        dtype: Type of the weights: float32, bfloat16 or float64.
        device: Device of the model.
        revision: Commit, tag or branch at the hub; not for folders.

    Raises:
        BackboneError: With one line per problem: an unknown name, files missing, empty or damaged, an
            architecture that cannot be a backbone, tensors missing, left over, of another shape or value, or not
            finite.
    """
    seed, name = parts_of(str(name_or_path))
    folder, source = locate(name, revision)
    problems = folder_problems(folder)
    if problems:
        raise BackboneError(*problems)
    with quiet():
        config, tokenizer = read_config(folder), read_tokenizer(folder)
        family = family_in(folder, config)
        _compare_shapes(folder, config, family)
        model = _read_model(folder, config, family, dtype)
        _compare_values(folder, model, family)
        model = model.to(device).eval().requires_grad_(False)
        max_length = positions_in(config, family, model, tokenizer)
        pad_id = _pad_id(folder, config, family, model, tokenizer)
        found = _behaviour(folder, config, family, model, tokenizer, pad_id)
        digest = checkpoint.digest(folder)
        if seed is not None:
            drawn = renew(model, config, family, name=name, seed=seed)
            digest = hashlib.sha256(f"{digest} {drawn}".encode()).hexdigest()
            source = fresh_name(source, seed)
    return Backbone(
        name=str(name_or_path),
        model=model,
        tokenizer=tokenizer,
        hidden_size=found.hidden_size,
        max_length=max_length,
        causal=found.causal,
        pad_id=pad_id,
        pooling=found.pooling,
        matrices=found.matrices,
        trained=seed is None and not getattr(config, "untrained", False),
        digest=digest,
        source=source,
    )


def family_in(folder: Path, config: Any) -> Family:
    """The row, with its settings applied; custom code that computes something else is refused."""
    own = type(config).__module__.startswith("lingo.")
    try:
        family = family_of(config)
    except (ValueError, KeyError) as error:
        raise BackboneError(f"{folder}: {one_line(error)}.") from None
    fields = checkpoint.read_config(folder)
    other = architectures.foreign_fields(fields, config) if fields.get("auto_map") and not own else []
    if other:
        raise BackboneError(
            f"{folder}: has code of its own (`auto_map`), which is never run, and config.json says {_some(other)}, "
            f"which {type(config).__name__} of transformers does not compute; take a model that it does."
        )
    for name, value in family.settings.items():
        setattr(config, name, value)
    return family


def _behaviour(
    folder: Path, config: Any, family: Family, model: nn.Module, tokenizer: Any, pad_id: int
) -> Behaviour:
    """The behaviour given by the row, or determined by the probe without one."""
    if family.derived:
        return probe(str(folder), model, tokenizer, pad_id=pad_id, rows=_rows(folder, model))
    return Behaviour(
        causal=family.causal,
        pooling=family.pooling,
        hidden_size=getattr(config, "word_embed_proj_dim", config.hidden_size),
        matrices=matrices_of(model, family, config.num_hidden_layers),
    )


def _rows(folder: Path, model: Any) -> int:
    try:
        rows: int = model.get_input_embeddings().num_embeddings
    except (NotImplementedError, AttributeError):
        raise BackboneError(
            f"{folder}: {type(model).__name__} has no embedding of token ids; take a model of text."
        ) from None
    return rows


def _read_model(folder: Path, config: Any, family: Family, dtype: torch.dtype) -> nn.Module:
    try:
        if config.model_type in own_models.MODEL_TYPES and (
            own := own_models.read_tied(folder, config, dtype)
        ):
            held: nn.Module = own
            return held
        model: nn.Module = getattr(transformers, family.auto).from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=family.attention,
            local_files_only=True,
            trust_remote_code=False,
            **family.init,
        )
    except Exception as error:  # shapes and names were checked before: other errors are rare
        raise BackboneError(f"{folder}: the model cannot be loaded ({one_line(error)}).") from None
    return model


def _inside(folder: Path, model: Any, family: Family) -> str:
    """Prefix of the headless model's tensors in a checkpoint with a head: the class's own prefix, or the
    one under which its publishers saved it (`backbone.` of Nemotron-H, which transformers renames)."""
    usual = f"{model.base_model_prefix}."
    names = [name for name, _ in checkpoint.tensors(folder, meta=True)] if family.derived else []
    if not names or any(name.startswith(usual) for name in names):
        return usual
    firsts = Counter(name.partition(".")[0] + "." for name in names).most_common(1)
    first, held = firsts[0][0], model.state_dict().keys()
    return first if any(name.removeprefix(first) in held and name not in held for name in names) else usual


def _plain(name: str, model: Any, inside: str) -> str:
    """The headless model's name for a tensor of a checkpoint."""
    if own := own_models.plain_name(model, name):
        return own
    name = name.removeprefix(inside)
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        name = name.removesuffix(old) + new if name.endswith(old) else name
    return name


def _is_head(name: str) -> bool:
    return name.startswith(HEADS) or name.endswith(NOT_WEIGHTS)


def _tensors(
    folder: Path, model: Any, family: Family, *, meta: bool = False
) -> Iterator[tuple[str, torch.Tensor]]:
    """The checkpoint's tensors by the headless model's names, without those of heads.

    Where a class is not known, heads are what stands beside the headless model in a checkpoint that has both.
    """
    inside = _inside(folder, model, family)
    beside = family.derived and any(
        name.startswith(inside) for name, _ in checkpoint.tensors(folder, meta=True)
    )
    for name, tensor in checkpoint.tensors(folder, meta=meta):
        plain = _plain(name, model, inside)
        if not _is_head(plain) and (name.startswith(inside) or not beside):
            yield plain, tensor


def _held(model: Any, family: Family, names: Collection[str]) -> dict[str, torch.Tensor]:
    """The model's tensors with names and shapes of the checkpoint: transformers fuses some at loading."""
    held: dict[str, torch.Tensor] = model.state_dict()
    if family.derived and held.keys() != names:
        # Some names are only renamed at the start, others only after the model's prefix.
        inside = f"{model.base_model_prefix}."
        stored = [
            {
                _plain(name, model, inside): tensor
                for name, tensor in revert_weight_conversion(model, given).items()
            }
            for given in (held, {inside + name: tensor for name, tensor in held.items()})
        ]
        held = min(held, *stored, key=lambda one: len(one.keys() ^ names))
    return {name: tensor for name, tensor in held.items() if not _is_head(name)}


def _tied(model: nn.Module, names: Collection[str]) -> set[str]:
    """Names of parameters tied to another one that the checkpoint has."""
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return {name for group in groups.values() if any(name in names for name in group) for name in group}


def _refuse_counts(folder: Path, config: Any) -> None:
    """Refuse absurd numbers of layers before that many modules are built."""
    most = 1000
    with contextlib.suppress(BackboneError):  # weights may still be missing
        most = max(most, sum(1 for _ in checkpoint.tensors(folder, meta=True)))
    for name, value in config.to_dict().items():
        if isinstance(value, int) and value > most and re.search(r"(layers?|blocks?|experts)$", name):
            raise BackboneError(
                f"{folder / 'config.json'}: `{name}` must be at most {most}, going by the tensors of the checkpoint, "
                f"but got {value}."
            )


def empty_model(folder: Path, config: Any, family: Family) -> Any:
    """The model without values (device `meta`). Raises `BackboneError` if config.json does not describe a model."""
    _refuse_counts(folder, config)
    try:
        with torch.device("meta"):
            return getattr(transformers, family.auto).from_config(
                config, attn_implementation=family.attention, trust_remote_code=False, **family.init
            )
    except Exception as error:  # the classes refuse impossible sizes with arbitrary errors
        raise BackboneError(
            f"{folder / 'config.json'}: does not describe a model ({one_line(error)})."
        ) from None


def _compare_shapes(folder: Path, config: Any, family: Family) -> None:
    """Refuse a checkpoint whose tensor names or shapes differ from the model's."""
    model = empty_model(folder, config, family)
    found = {name: list(tensor.shape) for name, tensor in _tensors(folder, model, family, meta=True)}
    wanted = {name: list(tensor.shape) for name, tensor in _held(model, family, found).items()}
    ignored = re.compile("|".join(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ["(?!)"]))
    tied = _tied(model, found) if family.derived else ()
    missing = [name for name in wanted if name not in found and name not in tied]
    extra = [name for name in found if name not in wanted and not (family.derived and ignored.search(name))]
    shapes = [
        f"{name} (config.json says {wanted[name]}, the checkpoint has {found[name]})"
        for name in wanted
        if name in found and found[name] != wanted[name]
    ]
    kinds = (
        ("lacks tensors", missing),
        ("has unknown tensors", extra),
        ("has tensors of another shape", shapes),
    )
    problems = [f"{folder}: the checkpoint {what}: {_some(names)}." for what, names in kinds if names]
    if problems:
        raise BackboneError(*problems)


def _compare_values(folder: Path, model: Any, family: Family) -> None:
    """Refuse a model whose values differ from the checkpoint's, whatever the library reported."""
    names = {name for name, _ in _tensors(folder, model, family, meta=True)} if family.derived else ()
    held = _held(model, family, names)
    other, broken = [], []
    for name, tensor in _tensors(folder, model, family):
        if name not in held:
            continue
        if not torch.isfinite(tensor).all():
            broken.append(name)
        elif not torch.equal(held[name], tensor.to(held[name].dtype)):
            other.append(name)
    kinds = (("has values that are not finite in", broken), ("was not loaded into", other))
    problems = [f"{folder}: the checkpoint {what}: {_some(names)}." for what, names in kinds if names]
    if problems:
        raise BackboneError(*problems)


def _some(names: list[str], most: int = 6) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def matrices_of(model: nn.Module, family: Family, layers: int) -> dict[str, list[str]]:
    """Matrices of a row of `lingo.families` by the paper's names, see `Backbone`. Raises `BackboneError`."""
    found = {
        paper: [f"{family.layer.format(layer)}.{path}" for layer in range(layers) for path in paths]
        for paper, paths in family.matrices.items()
    }
    for path in {path for paths in found.values() for path in paths}:
        module = model.get_submodule(path)
        if not isinstance(module, nn.Linear | Conv1D):
            raise BackboneError(f"{path}: must be a linear layer, but is {type(module).__name__}.")
    return found


def positions_in(config: Any, family: Family, model: nn.Module, tokenizer: Any) -> int:
    """Tokens of an input, by configuration, tables of positions and tokenizer. Raises `BackboneError`."""
    if family.derived:
        positions = architectures.positions_of(config, model)
    else:
        positions = config.max_position_embeddings
        positions -= config.pad_token_id + 1 if family.padded_positions else 0
    told = tokenizer.model_max_length
    if not (isinstance(told, int | float) and min(positions, told) >= 1):
        raise BackboneError(
            f"{tokenizer.name_or_path}: `max_position_embeddings` (config.json) and `model_max_length` "
            f"(tokenizer_config.json) must leave at least one position, but got {positions} and {told!r}."
        )
    return int(min(positions, told))


def _pad_id(folder: Path, config: Any, family: Family, model: nn.Module, tokenizer: Any) -> int:
    """The padding id. Padding is neither attended to nor pooled, so any id will do if none is set."""
    rows = _rows(folder, model) if family.derived else config.vocab_size
    beyond = {number: token for token, number in tokenizer.get_vocab().items() if number >= rows}
    # Padding may be any id, and special tokens that no text gets need no row (Llama's [PAD] behind its vocabulary).
    special = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})}
    if beyond.keys() - special or beyond.keys() & set(tokenizer("ACGT")["input_ids"]):
        raise BackboneError(
            f"{folder}: token ids must be below {rows} (vocab_size), but the tokenizer has {max(beyond)} "
            f"({beyond[max(beyond)]!r}); give the model an embedding row for each, or take the tokenizer of this model."
        )
    wanted = getattr(config, "pad_token_id", None)
    choices = [tokenizer.pad_token_id, wanted, tokenizer.eos_token_id, 0]
    chosen: int = next(choice for choice in choices if isinstance(choice, int) and 0 <= choice < rows)
    counted = architectures.counts_from_padding(model) if family.derived else family.padded_positions
    if counted and chosen != wanted:
        raise BackboneError(
            f"{folder}: tokenizer and config.json must have one padding id, as positions count from it, but got "
            f"{chosen} and {wanted}; correct `pad_token_id` in config.json or `pad_token` in tokenizer_config.json."
        )
    return chosen
