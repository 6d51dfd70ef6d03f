"""The metadata of exported weights, `lingo.json`: what prediction needs to build its input and interpret its output."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lingo.backbones import Backbone
from lingo.card import FACTS, HEAD, card_text
from lingo.data import TaskData
from lingo.embeddings import rows_of
from lingo.folder import write_json
from lingo.heads import pooling_of
from lingo.known_models import KNOWN
from lingo.methods import METHODS
from lingo.pack import Pack
from lingo.packed_bits import is_packed
from lingo.parameters import rank_pattern, trained_parameters, used_parameters
from lingo.prompts import Prompt
from lingo.quantized import type_name
from lingo.sequences import Case
from lingo.slot import Slot
from lingo.target import ExportError, Target
from lingo.text_files import file_digest
from lingo.tokenization import NO_PROMPT
from lingo.trial import Long, TrialConfig

FORMAT = 3
"""Format version. 2, of version 0.1.0, had no bias in the head and no scale of targets."""

NEWEST = 4
"""Format version of probes, which earlier releases cannot read."""

PROBE = "probe"
"""Layout of an export with only a head, which reads a layer of the frozen backbone."""


@dataclass(frozen=True, kw_only=True)
class About:
    """Facts about a slot that the caller knows and the pack does not.

    Attributes:
        card: Measured facts for the model card, arbitrarily nested.
        prompt: Language prefix and suffix of each sequence; `lingo.tokenization.NO_PROMPT` for none in a method that
            usually has a prompt.
        max_length: Maximum number of tokens of an input; `None` for whole sequences.
        labels: Names of all outputs in order, or empty.
        tokenization: `lingo.nucleotides.Units.recipe()` of tokens that are not the tokenizer's own.
        both_strands: Whether predictions are averaged over a sequence and its reverse complement.
        long: How sequences of more than `max_length` tokens were handled, see `lingo.long_sequences.encode`.
        case: Meaning of lower case, see `lingo.sequences.Case`.
        thresholds: Probabilities from which on class 1 of two, or each label, is predicted; none for ½ or the largest.
        pair: Separator of the two sequences of each pair; `None` for single sequences.
    """

    card: Mapping[str, Any]
    prompt: Prompt | None = None
    max_length: int | None = None
    labels: Sequence[str] = ()
    tokenization: Mapping[str, Any] | None = None
    both_strands: bool = False
    long: Long = "truncate"
    case: Case = "upper"
    pair: str | None = None
    thresholds: Sequence[float] = ()

    @property
    def new_tokens(self) -> int:
        """Number of embedding rows appended to those of the backbone's checkpoint."""
        return int(self.tokenization["new_tokens"]) if self.tokenization else 0

    def check(self, backbone: Backbone, data: TaskData, config: TrialConfig) -> None:
        """Raises `ExportError` if the prompt of a method with prompts is missing, or labels or embedding rows do not
        fit."""
        if config.kind.prompt and self.prompt is None:
            raise ExportError(f"`prompt` must be given for {config.method}, even if it was none (NO_PROMPT).")
        if self.labels and len(self.labels) != data.num_labels:
            raise ExportError(
                f"`labels` must name the {data.num_labels} outputs of {data.name}, "
                f"but got {len(self.labels)} names."
            )
        if self.tokenization and self.new_tokens:
            wanted, rows = self.tokenization["first_id"] + self.new_tokens, rows_of(backbone)
            if wanted != rows:
                raise ExportError(
                    f"`tokenization` must fit the {rows} embedding rows of {backbone.name}, "
                    f"but its ids end at {wanted}."
                )


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained model to export, from any engine.

    Attributes:
        backbone, data, config: Backbone, data and configuration of the training.
        step, total_steps: How far.
        training: Settings and sizes for the model card.
    """

    backbone: Backbone
    data: TaskData
    config: TrialConfig
    step: int
    total_steps: int
    training: Mapping[str, Any]

    @classmethod
    def of(cls, pack: Pack, slot: Slot) -> "Trained":
        """That of a slot of a pack; waits for the device."""
        return cls(
            backbone=pack.backbone,
            data=slot.data,
            config=slot.config,
            step=slot.step,
            total_steps=slot.total_steps,
            training=_training(pack, slot) | settings_of(slot.config),
        )


def write_about(folder: Path, trained: Trained, target: Target, about: About, *, layout: str) -> None:
    """Write `lingo.json` and the model card `README.md`; the weights must already be in the folder.

    Args:
        folder: An export's (temporary) folder.
        trained: What is exported.
        target: The class that reads it.
        about: What the caller knows.
        layout: `lora`, `adalora`, `merged`, `probe`, or another kind of adapter of peft.
    """
    facts = facts_of(trained, target, about, layout=layout)
    facts["files"] = {path.name: file_digest(path) for path in sorted(folder.glob("*.safetensors"))}
    write_json(folder / FACTS, facts)
    (folder / "README.md").write_text(card_text(facts, {"Measured": about.card}), encoding="utf-8")


def facts_of(trained: Trained, target: Target, about: About, *, layout: str) -> dict[str, Any]:
    """The content of `lingo.json`, without the digests of files."""
    backbone, data, prompt = trained.backbone, trained.data, about.prompt
    return {
        "format": NEWEST if layout == PROBE else FORMAT,
        "layout": layout,
        "task": data.name,
        "kind": data.kind,
        "num_labels": data.num_labels,
        "problem_type": target.config.problem_type,
        "labels": list(about.labels) or None,
        "prompt": {"prefix": prompt.prefix, "suffix": prompt.suffix}
        if prompt and prompt != NO_PROMPT
        else None,
        "max_length": about.max_length,
        "tokenization": dict(about.tokenization) if about.tokenization else None,
        "both_strands": about.both_strands,
        "long": about.long,
        "case": about.case,
        "pair": about.pair,
        "thresholds": list(about.thresholds) or None,
        "padding_side": "right",
        "pad_token_id": data.pad_id,
        "pooling": _pooling(trained, layout),
        "head": HEAD,
        "target": asdict(data.scale) if data.kind == "regression" else None,
        "load": target.load,
        "backbone": {
            "name": backbone.name,
            "source": backbone.source,
            "digest": backbone.digest,
            "trained": backbone.trained,
            "dtype": _frozen(backbone),
            "licence": KNOWN[backbone.name].licence if backbone.name in KNOWN else None,
        },
        "data_digest": data.digest,
        "step": trained.step,
        "total_steps": trained.total_steps,
        "config": trained.config.to_dict(),
        "training": dict(trained.training),
    } | ({"depth": trained.config.depth} if layout == PROBE else {})


def _pooling(trained: Trained, layout: str) -> str:
    how, own = trained.config.pooling, trained.backbone.pooling
    if layout == PROBE:
        return own if how == "auto" else how
    return pooling_of(how, own)


def _training(pack: Pack, slot: Slot) -> dict[str, Any]:
    return {
        "steps": f"{slot.step} of {slot.total_steps}",
        "trained parameters": trained_parameters(pack, slot),
        "trained parameters in use": used_parameters(pack, slot),
        "type of trained parameters": type_name(pack.dtype),
    } | ({"ranks in use": sum(map(sum, rank_pattern(pack, slot).values()))} if slot.paths else {})


def settings_of(config: TrialConfig) -> dict[str, Any]:
    """The settings that the trial's method reads."""
    values = config.to_dict()
    read = config.kind.settings | (
        set(values) - set().union(*(method.settings for method in METHODS.values()))
    )
    if config.kind.has_budget:
        values["rank_update"] = config.rank_update or config.kind.rank_update
    return {name: value for name, value in values.items() if name in read}


def _frozen(backbone: Backbone) -> str:
    """Type of the backbone's weights in training: `float32`, `bfloat16` … or `4bit`."""
    if any(is_packed(parameter) for parameter in backbone.model.parameters()):
        return "4bit"
    return str(next(backbone.model.parameters()).dtype).removeprefix("torch.")
