"""Saving, loading and forking a slot: safetensors and JSON, exact to the bit, no pickle.

A saved slot holds each factor at its own rank, by module path, so that it can go on in any pack that has
room for it. Random streams are functions of the step (`lingo.streams`): there is no more of them to save.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from lingo.data import TaskData
from lingo.pack import Pack
from lingo.slot import Slot
from lingo.trial import TrialConfig

FORMAT = 1
FACTOR_TENSORS = ("theta", "moment", "square", "sensitivity", "uncertainty")
RANK_TENSORS = ("keep", "unit", "learn", "valid")


META = {
    "format": int,
    "config": dict,
    "step": int,
    "task": str,
    "data_digest": str,
    "backbone": str,
    "backbone_digest": str,
    "dtype": str,
    "sha256": str,
}


class StateError(ValueError):
    """A saved slot that cannot be used, with one clear line."""


def save_slot(pack: Pack, slot: Slot, folder: Path) -> str:
    """Write a slot's exact state: `slot.json` and the tensor file that it names. Returns the tensors' digest.

    The tensors go to a new file, named by their digest, before the JSON that names it replaces the old one;
    only then is the old file removed. Killed anywhere, the folder holds the old state or the new one, whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    blob = save({name: view.detach().cpu().contiguous() for name, view in _views(pack, slot)})
    digest = hashlib.sha256(blob).hexdigest()
    meta: dict[str, Any] = {
        "format": FORMAT,
        "config": slot.config.to_dict(),
        "step": slot.step,
        "task": slot.data.name,
        "data_digest": slot.data.digest,
        "backbone": pack.backbone.name,
        "backbone_digest": pack.backbone.digest,
        "dtype": str(pack.dtype),
        "sha256": digest,
    }
    tensors = _tensor_file(folder, digest)
    _replace(tensors, blob)
    _replace(folder / "slot.json", (json.dumps(meta | {"seal": _seal(meta)}, indent=1) + "\n").encode())
    for old in (*folder.glob("slot-*.safetensors"), *folder.glob(".slot*")):
        if old != tensors:
            old.unlink(missing_ok=True)
    return digest


def load_slot(pack: Pack, folder: Path, data: TaskData) -> Slot:
    """Admit a saved slot into a pack, where it goes on as if it had never stopped.

    Raises:
        StateError: If a file is missing or damaged, or belongs to another backbone, task or number type.
        ValueError: If the pack has no room for it.
    """
    meta, blob = read_state(folder)
    expected = {
        "data_digest": data.digest,
        "task": data.name,
        "backbone_digest": pack.backbone.digest,
        "dtype": str(pack.dtype),
    }
    wrong = [
        f"{name} {meta[name]!r}, here {value!r}" for name, value in expected.items() if meta[name] != value
    ]
    if wrong:
        raise StateError(f"{folder} was saved with another {'; another '.join(wrong)}.")
    slot = pack.admit(TrialConfig.from_dict(meta["config"]), data)
    saved, views = load(blob), dict(_views(pack, slot))
    if saved.keys() != views.keys():
        pack.release(slot)
        odd = sorted(saved.keys() ^ views.keys())
        raise StateError(f"{folder} does not hold the tensors of this backbone: {', '.join(odd[:4])}.")
    for name, view in views.items():
        view.copy_(saved[name])
    slot.step = meta["step"]
    return slot


def read_state(folder: Path) -> tuple[dict[str, Any], bytes]:
    """The JSON and the tensor file of a saved slot, both checked by digest. Raises `StateError`."""
    try:
        meta = json.loads((folder / "slot.json").read_text())
    except (OSError, ValueError) as error:
        raise StateError(f"{folder} holds no readable saved slot: {error}.") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise StateError(f"{folder / 'slot.json'} must have format {FORMAT}.")
    if meta.pop("seal", None) != _seal(meta) or {k: type(v) for k, v in meta.items()} != META:
        raise StateError(f"{folder / 'slot.json'} is damaged: its content is not what was saved.")
    path = _tensor_file(folder, meta["sha256"])
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise StateError(f"{folder} holds no readable saved slot: {error}.") from error
    if hashlib.sha256(blob).hexdigest() != meta["sha256"]:
        raise StateError(f"{path} is damaged: its digest is not that in slot.json.")
    return meta, blob


def fork_slot(pack: Pack, slot: Slot, config: TrialConfig) -> Slot:
    """Clone a slot into a free one with another p, bT, ΔT (or rank_update), as if trained so from the start.

    Possible before the first allocation of either schedule; up to there these settings change nothing.

    Raises:
        ValueError: If another setting differs, or one of the two would have allocated already.
    """
    free = {"p": config.p, "bT": config.bT, "delta_T": config.delta_T, "rank_update": config.rank_update}
    if TrialConfig.from_dict(slot.config.to_dict() | free) != config:
        raise ValueError("a fork may differ in `p`, `bT`, `delta_T` and `rank_update` alone.")
    twin = pack.place(config, slot.data)
    schedules = [s.schedule for s in (slot, twin) if s.schedule]
    if any(slot.step >= schedule.first_allocation() for schedule in schedules):
        pack.release(twin)
        first = min(schedule.first_allocation() for schedule in schedules)
        raise ValueError(
            f"a fork must come before the first allocation, step {first}, but got step {slot.step}."
        )
    for tensor in pack.tensors().values():
        tensor[twin.row] = tensor[slot.row]
    twin.step = slot.step
    return twin


def _views(pack: Pack, slot: Slot) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a slot, as views of its row cut to its own ranks and outputs."""
    layout, tensors, row = pack.layout, pack.tensors(), slice(slot.row, slot.row + 1)
    for name in FACTOR_TENSORS:
        flat = tensors[name][row]
        for path in sorted(slot.paths):
            p, lam, q = layout.parts(flat, layout.site(path))
            yield f"{name}.{path}.P", p[:, : slot.rank]
            yield f"{name}.{path}.lam", lam[: slot.rank]
            yield f"{name}.{path}.Q", q[: slot.rank]
        if name in ("theta", "moment", "square"):
            yield f"{name}.head", layout.head(flat)[0, :, : slot.data.num_labels]
            if pack.full:
                yield f"{name}.body", flat[0, : layout.head_start]
    for name in RANK_TENSORS:
        for path in sorted(slot.paths):
            site = layout.site(path)
            group = layout.of_group(tensors[name][row], layout.groups[site.group])
            yield f"{name}.{path}", group[0, site.index, : slot.rank]
    yield "loss_sum", tensors["loss_sum"][slot.row]


def _tensor_file(folder: Path, digest: str) -> Path:
    return folder / f"slot-{digest[:16]}.safetensors"


def _seal(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)
