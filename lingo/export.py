"""A slot as an adapter folder of peft: `adapter_config.json`, `adapter_model.safetensors` and a model card.

Written without peft, in its layouts (0.21): LORA for `lora`, ADALORA for the SVD forms. Those may also become
LORA, with the singular values folded into B and a rank per module, which more tools read.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lingo.about import About, Trained, write_about
from lingo.card import HEAD, ROWS, source_of
from lingo.embeddings import last_rows
from lingo.folder import new_folder, write_json, write_tensors
from lingo.methods.base import LowRank
from lingo.pack import Pack
from lingo.slot import Slot
from lingo.target import ExportError, target_of

Tensors = dict[str, Tensor]
Settings = dict[str, Any]


@dataclass(frozen=True)
class Factors:
    """One site as a slot's forward pass uses it: P [d_in, r], λ [r], Q [r, d_out], and the ranks kept [r].

    λ is 1 for LoRA and 0 where it is masked. All ranks count as kept until the last allocation.
    """

    p: Tensor
    lam: Tensor
    q: Tensor
    kept: Tensor

    @property
    def rank(self) -> int:
        """Ranks kept."""
        return int(self.kept.sum())


def factors_of(pack: Pack, slot: Slot) -> dict[str, Factors]:
    """The factors of every adapted matrix by its path, cut to the slot's rank; waits for the device."""
    layout, bank, row = pack.layout, pack.bank, slice(slot.row, slot.row + 1)
    used = bank.unit[row] + layout.lam(bank.theta[row]) * bank.keep[row]
    final = slot.schedule is not None and slot.step >= slot.schedule.last
    found = {}
    for path in slot.paths:
        site = layout.site(path)
        group, rank = layout.groups[site.group], slice(slot.rank)
        p, _, q = layout.parts(bank.theta[row], site)
        lam, keep = (layout.of_group(ranks, group)[0, site.index, rank] for ranks in (used, bank.keep[row]))
        kept = keep != 0 if final else torch.ones_like(keep, dtype=torch.bool)
        found[path] = Factors(p[:, rank], lam, q[rank], kept)
    return found


def head_tensors(pack: Pack, slot: Slot) -> Tensors:
    """`weight` [labels, hidden] and `bias` [labels] of the slot's head."""
    layout, theta, labels = pack.layout, pack.bank.theta[slot.row : slot.row + 1], slot.data.num_labels
    return {"weight": layout.head(theta)[0, :, :labels].t(), "bias": layout.head_bias(theta)[0, 0, :labels]}


def export_adapter(
    pack: Pack,
    slot: Slot,
    folder: Path,
    *,
    card: Mapping[str, Any],
    layout: Literal["native", "lora"] = "native",
    **known: Any,
) -> Path:
    """Write one slot as an adapter folder that `peft.PeftModel.from_pretrained` loads on `AutoModel`.

    The head is in `head.safetensors` (`weight` [labels, hidden], `bias` [labels]), as trained; `lingo.json` has the
    mean and the standard deviation of a regression's targets, and the model card a program with equal logits.
    The folder is complete or not there at all; an earlier export of that name is replaced.

    Args:
        pack, slot: The slot, at any step.
        folder: Where to; its last part is created.
        card: Measured facts for the model card.
        layout: `native` (LORA or ADALORA, as trained), or `lora` (the SVD forms too, λ folded into B).
        known: Fields of `lingo.about.About`. Embedding rows that the backbone lacks go into `embeddings.safetensors`,
            since peft's layout has no place for them; the card's program puts them back.

    Returns:
        `folder`.

    Raises:
        ExportError: If there is no adapter (full fine-tuning), the prompt is not given, or `folder` holds something
            else.
        OSError: If the disk refuses.
    """
    if pack.full:
        raise ExportError(f"{slot.config.method} trains the whole model and has no adapter to export.")
    about = About(card=card, **known)
    about.check(pack.backbone, slot.data, slot.config)
    target = target_of(pack.backbone, slot.data, about.labels)
    factors = factors_of(pack, slot)
    if slot.svd:
        tensors, settings = (_folded if layout == "lora" else _adalora)(slot, factors)
    else:
        tensors, settings = _lora(slot, factors)
    name, commit = source_of(pack.backbone.source)
    config = settings | {
        "base_model_name_or_path": name,
        "revision": commit,
        # peft's wrapper for hidden states passes arguments that only transformers' own models know.
        "task_type": None if target.own else "FEATURE_EXTRACTION",
        "modules_to_save": None,
        "inference_mode": True,
        "bias": "none",
        "lora_dropout": slot.config.adapter_dropout,
        "fan_in_fan_out": _transposed(pack, slot),
    }
    with new_folder(folder) as new:
        write_tensors(
            new / "adapter_model.safetensors", {f"base_model.model.{k}": v for k, v in tensors.items()}
        )
        write_tensors(new / HEAD, head_tensors(pack, slot))
        if about.new_tokens:
            write_tensors(new / ROWS, {"rows": last_rows(pack.backbone, about.new_tokens)})
        write_json(new / "adapter_config.json", config)
        write_about(new, Trained.of(pack, slot), target, about, layout=settings["peft_type"].lower())
    return folder


def _lora(slot: Slot, factors: Mapping[str, Factors]) -> tuple[Tensors, Settings]:
    kind, tensors = slot.config.kind, {}
    assert isinstance(kind, LowRank)
    for path, site in factors.items():
        tensors[f"{path}.lora_A.weight"] = site.p.t()
        tensors[f"{path}.lora_B.weight"] = site.q.t()
    return tensors, {
        "peft_type": "LORA",
        "r": slot.rank,
        "lora_alpha": _number(slot.config.alpha),
        "target_modules": list(factors),
    } | kind.peft_settings(slot.config)


def _adalora(slot: Slot, factors: Mapping[str, Factors]) -> tuple[Tensors, Settings]:
    """After the last allocation the rows of masked ranks are left out and `rank_pattern` says which, as in
    peft's `get_peft_model_state_dict`; before, every rank is there, with λ = 0 where it is masked."""
    schedule, config, tensors = slot.schedule, slot.config, {}
    assert schedule is not None
    for path, site in factors.items():
        tensors[f"{path}.lora_A"] = site.p.t()[site.kept]
        tensors[f"{path}.lora_B"] = site.q.t()[:, site.kept]
        tensors[f"{path}.lora_E"] = site.lam[site.kept, None]
    pattern = {f"{path}.lora_E": site.kept.tolist() for path, site in factors.items()}
    return tensors, {
        "peft_type": "ADALORA",
        "init_r": config.b0,
        "target_r": config.bT,
        "lora_alpha": _number(config.alpha),
        "target_modules": list(factors),
        "rank_pattern": pattern if slot.step >= schedule.last else None,
        "tinit": schedule.first,
        "tfinal": slot.total_steps - schedule.last,
        "deltaT": config.delta_T,
        "beta1": config.beta1,
        "beta2": config.beta2,
        "orth_reg_weight": config.orthogonality,
        "total_step": slot.total_steps,
    }


def _folded(slot: Slot, factors: Mapping[str, Factors]) -> tuple[Tensors, Settings]:
    """A = Pᵀ and B = (s Λ Q)ᵀ of the ranks kept, at scale 1 (α = r in every module). A matrix that kept no
    rank is not adapted at all."""
    tensors, ranks = {}, {}
    for path, site in factors.items():
        if site.rank:
            ranks[path] = site.rank
            tensors[f"{path}.lora_A.weight"] = site.p.t()[site.kept]
            tensors[f"{path}.lora_B.weight"] = (site.q.t() * (slot.scale * site.lam))[:, site.kept]
    usual = math.ceil(sum(ranks.values()) / len(ranks))
    pattern = {path: rank for path, rank in ranks.items() if rank != usual}
    return tensors, {
        "peft_type": "LORA",
        "r": usual,
        "lora_alpha": usual,
        "target_modules": list(ranks),
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
    }


def _transposed(pack: Pack, slot: Slot) -> bool:
    """Whether the adapted weights are [d_in, d_out], as those of GPT-2's Conv1D."""
    bases = [pack.backbone.model.get_submodule(path).base for path in slot.paths]
    return not all(isinstance(base, nn.Linear) for base in bases)


def _number(value: float) -> int | float:
    """peft declares α as an integer; a fraction is written as it is."""
    return int(value) if value == int(value) else value
