"""Saving, loading and forking a slot: safetensors and JSON, exact to the bit, no pickle.

A saved slot holds each factor at its own rank, by module path, so that it can continue in any pack with enough
capacity. Random streams are functions of the step (`lingo.streams`), and have no state to save.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from lingo.data import TaskData
from lingo.pack import Pack
from lingo.quantized import AUTOCAST, backbone_type
from lingo.slot import Slot
from lingo.trial import TrialConfig

FORMAT = 2
"""Format version. 1 had no bias in the head, and no type of the backbone's weights."""

FACTOR_TENSORS = ("theta", "moment", "square", "sensitivity", "uncertainty")
RANK_TENSORS = ("keep", "unit", "learn", "valid")
PREDICTING = ("theta", *RANK_TENSORS)
FREE = ("p", "bT", "delta_T", "rank_update")
"""Settings that change nothing before a trial's first allocation."""


META = {
    "format": int,
    "config": dict,
    "step": int,
    "task": str,
    "data_digest": str,
    "backbone": str,
    "backbone_digest": str,
    "backbone_type": str,
    "dtype": str,
    "sha256": str,
}


class StateError(ValueError):
    """A saved slot cannot be used; one line per error."""


def arithmetic(pack: Pack) -> str:
    """Number type of the backbone's weights, or `AUTOCAST` if they are float32 with bfloat16 arithmetic."""
    return AUTOCAST if pack.autocast else backbone_type(pack.backbone)


def save_slot(pack: Pack, slot: Slot, folder: Path) -> str:
    """Write a slot's exact state: `slot.json` and the tensor file that it names. Returns the tensors' digest.

    The tensors go to a new file, named by their digest, before the JSON that names it replaces the old one;
    only then is the old file removed. If the process is killed at any point, the folder contains the old or the new
    state, complete.
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
        "backbone_type": arithmetic(pack),
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


def load_slot(pack: Pack, folder: Path, data: TaskData, *, config: TrialConfig | None = None) -> Slot:
    """Admit a saved slot into a pack, where it continues as if it had never stopped.

    With another `config`, as a fork of the saved trial: see `fork_slot` for the conditions.

    Raises:
        StateError: If a file is missing or damaged, or belongs to another backbone, task or number type.
        ValueError: If the pack has no capacity for it, or the fork is not possible.
    """
    meta, blob = read_state(folder)
    expected = {
        "data_digest": data.digest,
        "task": data.name,
        "backbone_digest": pack.backbone.digest,
        "backbone_type": arithmetic(pack),
        "dtype": str(pack.dtype),
    }
    wrong = [
        f"{name} {meta[name]!r}, here {value!r}" for name, value in expected.items() if meta[name] != value
    ]
    if wrong:
        raise StateError(f"{folder} was saved with another {'; another '.join(wrong)}.")
    saved_config = TrialConfig.from_dict(meta["config"])
    slot = pack.admit(saved_config if config is None else config, data)
    if config is not None:
        problem = _fork_problem(saved_config, config, meta["step"], [slot])
        if problem:
            pack.release(slot)
            raise ValueError(problem)
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
        meta = json.loads((folder / "slot.json").read_text(encoding="utf-8"))
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
    """Clone a slot into a free one with another p, bT, ΔT (or rank_update), as if trained with them from the start.

    Possible before the first allocation of either schedule; until then these settings have no effect.

    Raises:
        ValueError: If another setting differs, or one of the two would have allocated already.
    """
    if shared_settings(slot.config) != shared_settings(config):
        raise ValueError("a fork may differ in `p`, `bT`, `delta_T` and `rank_update` alone.")
    twin = pack.place(config, slot.data)
    problem = _fork_problem(slot.config, config, slot.step, [slot, twin])
    if problem:
        pack.release(twin)
        raise ValueError(problem)
    for tensor in pack.tensors().values():
        tensor[twin.row] = tensor[slot.row]
    twin.step = slot.step
    return twin


def shared_settings(config: TrialConfig) -> dict[str, Any]:
    """All settings except those that a fork may change: trials with the same ones share the training before the first
    allocation of either."""
    return {name: value for name, value in config.to_dict().items() if name not in FREE}


def _fork_problem(old: TrialConfig, new: TrialConfig, step: int, slots: Sequence[Slot]) -> str | None:
    if shared_settings(old) != shared_settings(new):
        return "a fork may differ in `p`, `bT`, `delta_T` and `rank_update` alone."
    first = min((s.schedule.first_allocation() for s in slots if s.schedule), default=step + 1)
    if step >= first:
        return f"a fork must come before the first allocation, step {first}, but got step {step}."
    return None


def weights(pack: Pack, slot: Slot) -> dict[str, Tensor]:
    """Copies, in host memory, of all that a slot's predictions depend on; without the optimiser's state."""
    return {
        name: view.detach().to("cpu", copy=True)
        for name, view in _views(pack, slot)
        if name.split(".")[0] in PREDICTING
    }


def put_weights(pack: Pack, slot: Slot, saved: Mapping[str, Tensor]) -> None:
    """Restore earlier weights of a slot (`weights`, or a saved slot's tensors); it should not be trained further.

    Raises:
        StateError: If these are not the tensors of such a slot.
    """
    views = {name: view for name, view in _views(pack, slot) if name.split(".")[0] in PREDICTING}
    if any(name not in saved or saved[name].shape != view.shape for name, view in views.items()):
        raise StateError("the weights do not belong to this slot.")
    for name, view in views.items():
        view.copy_(saved[name])


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
            if slot.config.kind.outputs != "none" and name in ("theta", "moment", "square"):
                site = layout.site(path)
                yield f"{name}.{path}.outputs", layout.out(flat, layout.groups[site.group])[0, site.index]
        if name in ("theta", "moment", "square"):
            yield f"{name}.head", layout.head(flat)[0, :, : slot.data.num_labels]
            yield f"{name}.head_bias", layout.head_bias(flat)[0, 0, : slot.data.num_labels]
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
