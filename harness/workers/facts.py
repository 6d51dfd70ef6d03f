"""Measurements of a job for its reports: parameters, ranks, samples, FLOPs, device time."""

from typing import Any

import numpy as np
import torch

from harness.workers.training import Training
from lingo.flops import OPT_125M, Shape, shape_of, step_flops
from lingo.full import model_dropout
from lingo.pack import Pack
from lingo.packed_bits import numbers_in
from lingo.parameters import rank_pattern, trained_parameters, used_parameters
from lingo.quantized import backbone_type, type_name
from lingo.slot import Slot
from lingo.streams import stream


def cost_facts(pack: Pack, slot: Slot) -> dict[str, Any]:
    """FLOPs of one training step of a trial, and of the same step on OPT-125M; empty if the backbone's
    architecture is unknown. The length is the mean over the first epoch's batches, padded as for a single trial."""
    try:
        shape = shape_of(pack.backbone.model.config)
    except (AttributeError, ValueError):
        return {}
    return {
        "flops_per_step": _flops(shape, slot, pack.full),
        "reference_flops_per_step": _flops(OPT_125M, slot, pack.full),
    }


def _flops(shape: Shape, slot: Slot, full: bool) -> float:
    config = slot.config
    return step_flops(
        shape,
        length=round(_mean_width(slot)),
        batch=config.batch_size,
        num_labels=slot.data.num_labels,
        full=full,
        targets=() if full else config.targets,
        rank=slot.rank,
        svd=slot.svd,
        delta_T=config.delta_T,
    ).total


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
        "backbone_type": backbone_type(backbone),
        "trained_type": type_name(pack.dtype),
        "device": device,
        "gpus": gpus,
        "device_seconds": round(training.device_seconds, 3),
        "micro_batches": pack.micro_batches,
        **training.costs,
    }
    left_out = model_dropout(backbone.model.config) if pack.full else 0.0
    if left_out:
        facts["model_dropout"] = {"configured": left_out, "used": 0.0}
    if "flops_per_step" in training.costs:
        facts["flops"] = training.costs["flops_per_step"] * slot.step
    if slot.svd:
        facts["kept_ranks"] = {path: sum(kept) for path, kept in rank_pattern(pack, slot).items()}
        facts["rank_trajectory"] = training.trajectory.to_dict()
    return facts
