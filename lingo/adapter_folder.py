"""Reading of exported folders: metadata is checked, and factors become updates of the backbone's matrices."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lingo import text_files
from lingo.about import NEWEST
from lingo.card import FACTS, HEAD, ROWS, source_of
from lingo.data import Kind, Scale
from lingo.families import Pooling
from lingo.prompts import Prompt
from lingo.sequences import Case
from lingo.text_files import file_digest, one_line
from lingo.trial import Long

WEIGHTS = "adapter_model.safetensors"
BEFORE = "base_model.model."
"""Prefix of every tensor's name in peft's files."""


class AdapterError(ValueError):
    """An adapter cannot be used; one line per error."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What prediction needs of an export's `lingo.json`.

    Attributes:
        folder: The export.
        layout: `lora`, `adalora`, `merged`, `probe`, or the name of another kind of adapter of peft.
        task, kind, num_labels, labels: What is predicted; `labels` is empty if outputs have no names.
        prompt, max_length, tokenization, both_strands, long, case, pair: How the input is built, see
            `lingo.about.About`.
        thresholds: Probabilities from which on class 1 of two, or each label, is predicted; none for ½.
        pad_id: As in `lingo.backbones.Backbone`.
        pooling, depth: What the head reads: see `lingo.families.Pooling`, or `max`; and of which layer, a share of all.
        head: `head.safetensors`, or, in exports of version 0.1.0, path of the head in the model.
        scale: Scale of a regression's targets; in exports of version 0.1.0 mean 0 and deviation 1.
        backbone, source, digest: Name, location and digest of the backbone.
        dtype: Type of its weights in training: `float32`, `bfloat16`, `float64` or `4bit`.
    """

    folder: Path
    layout: str
    task: str
    kind: Kind
    num_labels: int
    labels: tuple[str, ...]
    prompt: Prompt | None
    max_length: int | None
    tokenization: Mapping[str, Any] | None
    both_strands: bool
    long: Long
    case: Case
    pair: str | None
    thresholds: tuple[float, ...]
    pad_id: int
    pooling: Pooling | Literal["max"]
    head: str
    scale: Scale
    backbone: str
    source: str
    digest: str
    dtype: str
    depth: float = 1.0

    @property
    def new_tokens(self) -> int:
        """Number of embedding rows in the export."""
        return int(self.tokenization["new_tokens"]) if self.tokenization else 0

    @property
    def place(self) -> str:
        """Location of the backbone: inside the export, where it was in training, or, if that does not exist, relative
        to the export, in case a common parent folder was moved. The caller must compare `digest`."""
        if source_of(self.source)[1] is not None:
            return self.source
        source, above = Path(self.source), self.folder.resolve()
        tails = [source.parts[start:] for start in range(len(source.parts) - 1)]
        moved = [folder.joinpath(*tail) for tail in tails for folder in above.parents if tail[0] != "/"]
        places = [above / source, source, *moved]
        return str(next((place for place in places if (place / "config.json").is_file()), source))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `AdapterError` if it is missing or something else."""
    try:
        content = text_files.read_json(path)
    except FileNotFoundError:
        raise AdapterError(f"{path.parent}: must be an exported adapter, but has no {path.name}.") from None
    except (OSError, ValueError) as error:
        raise AdapterError(f"{path}: must be JSON, but cannot be read ({one_line(error)}).") from None
    if not isinstance(content, dict):
        raise AdapterError(f"{path}: must be a JSON object, but got {type(content).__name__}.")
    return content


def read_facts(folder: Path) -> Facts:
    """The facts of an export.

    Raises:
        AdapterError: If the folder is not an export, has a later format, or a file has changed since the export.
    """
    found = read_json(folder / FACTS)
    if not found.get("format", 0) <= NEWEST:
        raise AdapterError(
            f"{folder / FACTS}: `format` must be at most {NEWEST}, but got {found['format']}; "
            "use a later version of lingo-bench."
        )
    try:
        prompt, backbone = found["prompt"], found["backbone"]
        facts = Facts(
            folder=folder,
            layout=found["layout"],
            task=found["task"],
            kind=found["kind"],
            num_labels=found["num_labels"],
            labels=tuple(found["labels"] or ()),
            prompt=None if prompt is None else Prompt(prompt["prefix"], prompt["suffix"]),
            max_length=found["max_length"],
            tokenization=found.get("tokenization"),
            both_strands=found.get("both_strands", False),
            long=found.get("long", "truncate"),
            case=found.get("case", "upper"),
            pair=found.get("pair"),
            thresholds=tuple(found.get("thresholds") or ()),
            pad_id=found["pad_token_id"],
            pooling=found["pooling"],
            head=found["head"],
            scale=Scale(**(found.get("target") or {})),
            backbone=backbone["name"],
            source=backbone["source"],
            digest=backbone["digest"],
            dtype=str(backbone.get("dtype", "float32")),
            depth=float(found.get("depth", 1.0)),
        )
    except (KeyError, TypeError) as error:
        raise AdapterError(
            f"{folder / FACTS}: lacks what prediction needs ({one_line(error)}); export again."
        ) from None
    check_files(folder, found.get("files", {}))
    return facts


def check_files(folder: Path, digests: Mapping[str, str]) -> None:
    """Raises `AdapterError` if a file of weights is missing or has changed since the export."""
    for name, digest in digests.items():
        path = folder / name
        if not path.is_file():
            raise AdapterError(f"{path}: is missing; export again.")
        if file_digest(path) != digest:
            raise AdapterError(
                f"{path}: is not the file that was exported (its sha256 differs); export again."
            )


def tensors_of(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises `AdapterError` if it is damaged or a value is not finite."""
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{path}: cannot be read as safetensors ({one_line(error)}).") from None
    broken = [name for name, tensor in found.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise AdapterError(f"{path}: must hold finite numbers, but {broken[0]} does not.")
    return found


def read_head(facts: Facts, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Weight [labels, hidden] and bias [labels] of the head; removed from `tensors` if it is there.

    Heads of version 0.1.0 have no bias, or one of 0.
    """
    if facts.head == HEAD:
        held = tensors_of(facts.folder / HEAD)
    else:
        before = f"{BEFORE}{facts.head}."
        held = {name: tensors.pop(before + name) for name in ("weight", "bias") if before + name in tensors}
    weight = held.get("weight")
    if weight is None or len(weight) != facts.num_labels:
        given = "none" if weight is None else f"{list(weight.shape)}"
        raise AdapterError(f"{facts.folder}: the head must have {facts.num_labels} outputs, but got {given}.")
    bias = held.get("bias", weight.new_zeros(len(weight)))
    if bias.shape != weight.shape[:1]:
        raise AdapterError(
            f"{facts.folder}: the head's bias must have {len(weight)} numbers, but got {list(bias.shape)}."
        )
    return weight, bias


def read_rows(facts: Facts) -> Tensor:
    """Embeddings of the tokens that the backbone lacks, [new tokens, width]."""
    rows = tensors_of(facts.folder / ROWS)["rows"]
    if len(rows) != facts.new_tokens:
        raise AdapterError(
            f"{facts.folder / ROWS}: must have {facts.new_tokens} rows, but got {list(rows.shape)}."
        )
    return rows


def updates(
    facts: Facts, tensors: Mapping[str, Tensor], prefixes: tuple[str, ...]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(module path in the backbone, P [d_in, r], s·Λ·Q [r, d_out]) of every adapted matrix.

    Args:
        facts, tensors: Of the export, without the head.
        prefixes: Possible prefixes of a backbone's module paths, longest first.

    Raises:
        AdapterError: If a tensor is unknown or lacks its counterparts.
    """
    config = read_json(facts.folder / "adapter_config.json")
    ends = ("lora_A", "lora_E", "lora_B") if facts.layout == "adalora" else ("lora_A.weight", "lora_B.weight")
    left = set(tensors)
    for name in tensors:
        if not name.endswith(f".{ends[0]}"):
            continue
        site = name.removesuffix(ends[0])
        wanted = [f"{site}{end}" for end in ends]
        if not left.issuperset(wanted):
            raise AdapterError(f"{facts.folder / WEIGHTS}: must have {', '.join(wanted)}, but lacks some.")
        left -= set(wanted)
        module = site.removeprefix(BEFORE).removesuffix(".")
        a, *middle, b = (tensors[key].double() for key in wanted)
        path = next(module.removeprefix(prefix) for prefix in prefixes if module.startswith(prefix))
        factor = _scale(config, module, facts.layout)
        yield path, a.t(), b.t() * (factor * middle[0] if middle else factor)
    if left:
        raise AdapterError(f"{facts.folder / WEIGHTS}: has tensors of no use: {', '.join(sorted(left)[:3])}.")


def _scale(config: Mapping[str, Any], module: str, layout: str) -> float:
    """α/r of a module for LoRA, α/√r for rsLoRA, α/(b0 + 1e-5) for the SVD forms, as in peft."""
    try:
        if layout == "adalora":
            return config["lora_alpha"] / (config["init_r"] + 1e-5)
        alpha = (config.get("alpha_pattern") or {}).get(module, config["lora_alpha"])
        rank = (config.get("rank_pattern") or {}).get(module, config["r"])
        return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))
    except (KeyError, TypeError) as error:
        raise AdapterError(f"adapter_config.json: lacks a number ({one_line(error)}).") from None


def adapter_digest(folder: Path) -> str:
    """sha256 of an adapter's `lingo.json`, which contains those of its weights."""
    return file_digest(folder / FACTS)
