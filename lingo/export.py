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
from lingo.packed_linear import PackedLinear
from lingo.principal import principal
from lingo.slot import Slot
from lingo.streams import stream_seed
from lingo.target import ExportError, target_of

Tensors = dict[str, Tensor]
BEFORE = "base_model.model."
Settings = dict[str, Any]


@dataclass(frozen=True)
class Factors:
    """One site as a slot's forward pass uses it: P [d_in, r], λ [r], Q [r, d_out], and the ranks kept [r].

    λ is 1 for LoRA and 0 where it is masked. All ranks count as kept until the last allocation. `outputs` are the
    trained numbers of the site's outputs [d_out], where the method has any.
    """

    p: Tensor
    lam: Tensor
    q: Tensor
    kept: Tensor
    outputs: Tensor | None = None

    @property
    def rank(self) -> int:
        """Ranks kept."""
        return int(self.kept.sum())


def factors_of(pack: Pack, slot: Slot) -> dict[str, Factors]:
    """The factors of every adapted matrix by its path, cut to the slot's rank; waits for the device. Of PiSSA there are
    twice as many: what W0 lacks is subtracted from the W0 that there is."""
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
        p, q, outputs = p[:, rank], q[rank], None
        if slot.config.kind.outputs != "none":
            outputs = layout.out(bank.theta[row], group)[0, site.index]
        if slot.config.kind.principal:
            base = pack.backbone.model.get_submodule(path)
            assert isinstance(base, PackedLinear)
            down, up = (part.to(q) for part in principal(base.base, base.weight, slot.rank))
            p, q = torch.cat([p, down / slot.scale], 1), torch.cat([q, -up])
            lam = torch.cat([lam, lam.new_ones(len(up))])
            kept = torch.ones_like(lam, dtype=torch.bool)
        found[path] = Factors(p, lam, q, kept, outputs)
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
    if slot.config.kind.outputs == "scales":
        tensors, settings = _vera(slot, factors)
    elif slot.svd:
        tensors, settings = (_folded if layout == "lora" else _adalora)(slot, factors)
    else:
        tensors, settings = _lora(slot, factors)
    if slot.config.kind.outputs != "scales":
        tensors = {f"{BEFORE}{name}": tensor for name, tensor in tensors.items()}
        settings["lora_dropout"] = slot.config.adapter_dropout
    name, commit = source_of(pack.backbone.source)
    config = settings | {
        "base_model_name_or_path": name,
        "revision": commit,
        # peft's wrapper for hidden states passes arguments that only transformers' own models know.
        "task_type": None if target.own else "FEATURE_EXTRACTION",
        "modules_to_save": None,
        "inference_mode": True,
        "bias": "none",
        "fan_in_fan_out": _transposed(pack, slot),
    }
    with new_folder(folder) as new:
        write_tensors(new / "adapter_model.safetensors", tensors)
        write_tensors(new / HEAD, head_tensors(pack, slot))
        if about.new_tokens:
            write_tensors(new / ROWS, {"rows": last_rows(pack.backbone, about.new_tokens)})
        write_json(new / "adapter_config.json", config)
        write_about(new, Trained.of(pack, slot), target, about, layout=_layout(slot, settings))
    return folder


def _lora(slot: Slot, factors: Mapping[str, Factors]) -> tuple[Tensors, Settings]:
    kind, tensors, rank = slot.config.kind, {}, slot.rank
    assert isinstance(kind, LowRank)
    for path, site in factors.items():
        rank = site.rank
        if site.outputs is not None:
            tensors[f"{path}.lora_magnitude_vector"] = site.outputs
        tensors[f"{path}.lora_A.weight"] = site.p.t()
        tensors[f"{path}.lora_B.weight"] = site.q.t()
    return tensors, {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": _number(slot.config.alpha * rank / slot.rank),
        "target_modules": list(factors),
    } | kind.peft_settings(slot.config)


def _vera(slot: Slot, factors: Mapping[str, Factors]) -> tuple[Tensors, Settings]:
    """The pair that all matrices share is that of the widest ones, of which the others have a part."""
    widest = max(factors.values(), key=lambda site: len(site.p)).p
    most = max(factors.values(), key=lambda site: site.q.shape[1]).q
    shared = {"base_model.vera_A": widest.t(), "base_model.vera_B": most.t()}
    tensors: Tensors = {}
    for path, site in factors.items():
        assert site.outputs is not None
        tensors |= {f"{path}.vera_lambda_d": site.lam, f"{path}.vera_lambda_b": site.outputs}
    return shared | {f"{BEFORE}{name}": tensor for name, tensor in tensors.items()}, {
        "peft_type": "VERA",
        "r": slot.rank,
        "target_modules": list(factors),
        "projection_prng_key": stream_seed(slot.config.seed, "init"),
        "save_projection": True,
        "vera_dropout": slot.config.adapter_dropout,
    }


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


def _layout(slot: Slot, settings: Settings) -> str:
    """`lora` or `adalora`, or the method's name where matrices change by more than a product of factors."""
    plain = slot.config.kind.outputs == "none"
    return str(settings["peft_type"]).lower() if plain else slot.config.method


def _number(value: float) -> int | float:
    """peft declares α as an integer; a fraction is written as it is."""
    return int(value) if value == int(value) else value
