"""What stands beside exported weights: a model card, and the facts that prediction needs."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from lingo.backbones import Backbone
from lingo.families import KNOWN
from lingo.folder import write_json
from lingo.pack import Pack
from lingo.parameters import rank_pattern, trained_parameters, used_parameters
from lingo.prompts import Prompt
from lingo.slot import Slot
from lingo.target import ExportError, Target

FORMAT = 1
SVD_SETTINGS = (
    "b0",
    "bT",
    "delta_T",
    "beta1",
    "beta2",
    "initial_warmup_ratio",
    "final_finetune_ratio",
    "rank_update",
    "orthogonality",
)
POOLED = {
    "last": "hidden[range(len(hidden)), inputs.attention_mask.sum(1) - 1]",
    "first": "hidden[:, 0]",
    "mean": "(hidden * inputs.attention_mask[..., None]).sum(1) / inputs.attention_mask.sum(1)[:, None]",
}


def source_of(backbone: Backbone) -> tuple[str, str | None]:
    """(hub id or folder, commit or None) under which transformers finds the backbone."""
    name, at, commit = backbone.source.rpartition("@")
    return (name, commit) if at and not Path(backbone.source).is_dir() else (backbone.source, None)


@dataclass(frozen=True, kw_only=True)
class About:
    """What the caller knows of a slot and the pack does not.

    Attributes:
        card: Measured facts for the model card, nested at will.
        prompt: What stood around each sequence.
        max_length: Tokens at which inputs were cut; `None` for whole sequences.
        labels: Names of the outputs, in order; none, or one for each.
    """

    card: Mapping[str, Any]
    prompt: Prompt | None = None
    max_length: int | None = None
    labels: Sequence[str] = ()

    def check(self, slot: Slot) -> None:
        """Raises `ExportError` when a slot that read prompts comes without one, or labels do not fit."""
        if slot.config.kind.prompt and self.prompt is None:
            raise ExportError(f"`prompt` must be given for {slot.config.method}, which was trained with one.")
        if self.labels and len(self.labels) != slot.data.num_labels:
            raise ExportError(
                f"`labels` must name the {slot.data.num_labels} outputs of {slot.data.name}, "
                f"but got {len(self.labels)} names."
            )


def write_about(folder: Path, pack: Pack, slot: Slot, target: Target, about: About, *, layout: str) -> None:
    """Write `lingo.json`, what prediction needs to build its input, and the model card `README.md`.

    Args:
        folder: An export's (temporary) folder.
        pack, slot: What is exported.
        target: The class that reads it.
        about: What the caller knows.
        layout: `lora`, `adalora` or `merged`.
    """
    backbone, data, prompt = pack.backbone, slot.data, about.prompt
    facts = {
        "format": FORMAT,
        "layout": layout,
        "task": data.name,
        "kind": data.kind,
        "num_labels": data.num_labels,
        "problem_type": target.config.problem_type,
        "labels": list(about.labels) or None,
        "prompt": None if prompt is None else {"prefix": prompt.prefix, "suffix": prompt.suffix},
        "max_length": about.max_length,
        "padding_side": "right",
        "pad_token_id": data.pad_id,
        "pooling": backbone.pooling,
        "head": target.head or "head.safetensors",
        "backbone": {
            "name": backbone.name,
            "source": backbone.source,
            "digest": backbone.digest,
            "trained": backbone.trained,
        },
        "data_digest": data.digest,
        "step": slot.step,
        "total_steps": slot.total_steps,
        "config": slot.config.to_dict(),
    }
    write_json(folder / "lingo.json", facts)
    sections = [
        _front(pack, slot, layout),
        f"# {slot.config.kind.title} of {Path(backbone.name).name} for {data.name}",
        _marks(pack, slot),
        f"## Use\n\n```python\n{_code(backbone, target, layout)}\n```",
        _input(facts),
        f"## Measured\n\n{_table(about.card)}" if about.card else "",
        f"## Training\n\n{_table(_training(pack, slot) | _settings(slot))}",
    ]
    (folder / "README.md").write_text("\n\n".join(filter(None, sections)) + "\n", encoding="utf-8")


def _front(pack: Pack, slot: Slot, layout: str) -> str:
    data = ModelCardData(
        base_model=source_of(pack.backbone)[0],
        library_name="transformers" if layout == "merged" else "peft",
        pipeline_tag="text-classification",
        tags=["dna", "genomics", slot.config.method, layout],
    )
    return f"---\n{data.to_yaml()}\n---"


def _marks(pack: Pack, slot: Slot) -> str:
    marks = []
    if not pack.backbone.trained:
        marks.append("**The backbone has random weights: for demonstrations only.**")
    if not slot.done:
        marks.append(f"**Training had not ended: step {slot.step} of {slot.total_steps}.**")
    return "\n\n".join(marks)


def _code(backbone: Backbone, target: Target, layout: str) -> str:
    """A program that runs inside the folder and leaves `logits` of `inputs`."""
    name, commit = source_of(backbone)
    merged, separate = layout == "merged", target.head is None
    options: dict[str, Any] = {"revision": None if merged else commit}
    if not target.own and (separate or not merged):
        options |= target.options
    arguments = [repr("." if merged else name)] + [f"{k}={v!r}" for k, v in options.items() if v is not None]
    call = "load_backbone({}).model" if target.own else f"{target.auto}.from_pretrained({{}})"
    lines = [
        *(["from safetensors.torch import load_file"] if separate else []),
        *([] if merged else ["from peft import PeftModel"]),
        "from lingo.backbones import load_backbone"
        if target.own
        else f"from transformers import {target.auto}",
        "",
        f"model = {call.format(', '.join(arguments))}",
        *([] if merged else ["model = PeftModel.from_pretrained(model, '.')"]),
        "model.eval()",
        "# inputs: input_ids and attention_mask, padded on the right",
    ]
    if separate:
        lines += [
            "hidden = model(**inputs).last_hidden_state",
            f"pooled = {POOLED[backbone.pooling]}",
            "logits = pooled @ load_file('head.safetensors')['weight'].T",
        ]
    else:
        lines.append("logits = model(**inputs).logits")
    return "\n".join(lines)


def _input(facts: Mapping[str, Any]) -> str:
    prompt, length = facts["prompt"], facts["max_length"]
    text = f"{prompt['prefix']}{{sequence}}{prompt['suffix']}" if prompt else "{sequence}"
    cut = f"cut to {length} tokens by shortening the sequence" if length else "never cut"
    return (
        f"## Input and output\n\nThe tokenizer reads `{json.dumps(text)}` (a JSON string), {cut}, padded on "
        f"the right with id {facts['pad_token_id']}. The head reads the {facts['pooling']} hidden state and "
        f"gives {facts['num_labels']} outputs ({facts['problem_type']}{_names(facts['labels'])}). "
        "`lingo.json` has the same for programs."
    )


def _names(labels: Sequence[str] | None) -> str:
    return f": {', '.join(labels)}" if labels else ""


def _training(pack: Pack, slot: Slot) -> dict[str, Any]:
    known = KNOWN.get(pack.backbone.name)
    facts = {
        "backbone": pack.backbone.source,
        "backbone digest": pack.backbone.digest,
        "backbone licence": known.licence if known else None,
        "data digest": slot.data.digest or None,
        "steps": f"{slot.step} of {slot.total_steps}",
        "trained parameters": trained_parameters(pack, slot),
        "trained parameters in use": used_parameters(pack, slot),
        "ranks in use": sum(map(sum, rank_pattern(pack, slot).values())) if slot.paths else None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _settings(slot: Slot) -> dict[str, Any]:
    """The settings that the slot's method reads."""
    kind = slot.config.kind
    unread = {
        name
        for names, reads in (
            (SVD_SETTINGS, kind.adapter == "svd"),
            (("rank",), kind.adapter == "lora"),
            (("alpha", "adapter_dropout", "targets"), kind.adapter != "none"),
            (("p",), kind.sampled),
        )
        if not reads
        for name in names
    }
    values = slot.config.to_dict() | {"rank_update": slot.rank_update}
    return {name: value for name, value in values.items() if name not in unread}


def _table(facts: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {value} |" for name, value in _flat(facts)]
    return "\n".join(["| | |", "| --- | --- |", *rows])


def _flat(facts: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            yield f"{before}{_cell(name)}", _cell(text)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")
