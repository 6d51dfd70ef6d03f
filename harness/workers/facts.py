"""Measurements of a job for its reports: parameters, ranks, samples, FLOPs, device time."""

from functools import partial
from typing import Any

import numpy as np
import torch

from harness.workers.training import Training
from lingo.architectures import family_of
from lingo.flop_count import counted_step
from lingo.flops import OPT_125M, shape_of, step_flops
from lingo.full import model_dropout
from lingo.pack import Pack
from lingo.packed_bits import numbers_in
from lingo.parameters import rank_pattern, trained_parameters, used_parameters
from lingo.quantized import type_name
from lingo.sites import counts_by_end, names_of
from lingo.slot import Slot
from lingo.state import arithmetic
from lingo.streams import stream
from lingo.trial import PAPER_MATRICES


def cost_facts(pack: Pack, slot: Slot) -> dict[str, Any]:
    """FLOPs of one training step of a trial, and of the same step on OPT-125M; nothing where those of the backbone's
    architecture cannot be counted. The length is the mean of the first epoch's batches, as padded alone."""
    backbone, config, full = pack.backbone, slot.config, pack.full
    width = round(_mean_width(slot))
    chunks = max(1, -(-width // backbone.window)) if backbone.window else 1
    step: dict[str, Any] = {
        "length": -(-width // chunks),
        "batch": config.batch_size * chunks,
        "num_labels": slot.data.num_labels,
        "full": full,
        "rank": slot.rank,
        "svd": slot.svd,
        "delta_T": config.delta_T,
    }
    own: dict[str, Any] = {} if full else {"more": partial(config.kind.products, config)}
    named = all(name in backbone.matrices for name in config.targets)
    names = () if full else config.targets if named else names_of(backbone.matrices, slot.paths)
    paper = () if full else tuple(name for name in names or () if name in PAPER_MATRICES) or PAPER_MATRICES
    try:
        if family_of(backbone.model.config).derived or names is None:
            flops = counted_step(backbone, slot.paths, **step, **own)
        else:
            flops = step_flops(shape_of(backbone.model.config), targets=names, **step, **own)
    except (AttributeError, KeyError, ValueError):
        return {}
    return {
        "flops_per_step": flops.total,
        "reference_flops_per_step": step_flops(OPT_125M, targets=paper, **step, **own).total,
    }


def _mean_width(slot: Slot) -> float:
    """Tokens of the longest sequence of a batch, averaged over the first epoch."""
    lengths = slot.data.train.lengths
    order = torch.randperm(len(lengths), generator=stream(slot.config.seed, "order", 0)).numpy()
    starts = np.arange(0, len(order), slot.config.batch_size)
    return float(np.maximum.reduceat(lengths[order], starts).mean())


def job_facts(pack: Pack, training: Training, *, device: str, gpus: int) -> dict[str, Any]:
    """All measurements so far, see `harness.runs.jobs.Report.facts`.

    Args:
        device: Device of the group.
        gpus: GPUs of the whole group.
    """
    slot, backbone = training.slot, pack.backbone
    assert slot is not None
    facts: dict[str, Any] = {
        "trained_parameters": trained_parameters(pack, slot),
        "used_parameters": used_parameters(pack, slot),
        "total_parameters": sum(map(numbers_in, backbone.model.parameters())),
        "samples": training.samples(slot.step),
        "samples_shared": training.shared,
        "data_digest": slot.data.digest,
        "backbone_digest": backbone.digest,
        "backbone_type": arithmetic(pack),
        "trained_type": type_name(pack.dtype),
        "device": device,
        "gpus": gpus,
        "device_seconds": round(training.device_seconds, 3),
        "micro_batches": pack.micro_batches,
        "train_losses": training.losses.facts(),
        **training.costs,
    }
    if training.job.evaluations > 1:
        facts["evaluations_per_epoch"] = training.job.evaluations
    if device == "cuda" and torch.get_float32_matmul_precision() != "highest":
        facts["tf32"] = True
    if slot.paths:
        facts["adapted"] = counts_by_end(slot.paths)
    left_out = model_dropout(backbone.model.config) if pack.full else 0.0
    if left_out:
        facts["model_dropout"] = {"configured": left_out, "used": 0.0}
    if "flops_per_step" in training.costs:
        facts["flops"] = training.costs["flops_per_step"] * slot.step
    if slot.svd:
        facts["kept_ranks"] = {path: sum(kept) for path, kept in rank_pattern(pack, slot).items()}
        facts["rank_trajectory"] = training.trajectory.to_dict()
    return facts
