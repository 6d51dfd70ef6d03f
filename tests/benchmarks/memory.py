"""What slot k + 1 costs: bytes that the pack owns, and peak memory of a process, against what shapes ask for.

    python -m tests.benchmarks.memory SLOTS

trains a pack of SLOTS slots for three steps and prints the peak of its resident memory in bytes (Linux).
"""

import os
import subprocess
import sys
from pathlib import Path

import torch

from lingo.pack import Pack
from tests.benchmarks.measure import Row, live_tensors, storage_bytes
from tests.benchmarks.models import PARTS, Shape

SHAPE = Shape(layers=12, hidden=768, ffn=3072, heads=12, batch=4, tokens=32)
FLOAT, MIB = 4, 2**20
KEPT = 6
"""Numbers a slot keeps for each of its parameters: itself, its gradient, two moments of AdamW, Ī and Ū."""


def rows(*, quick: bool) -> list[Row]:
    """The table's lines; the packs here adapt all six matrices, so that a row has no unused part."""
    listed, growth, base_is_shared = _owned()
    kept = KEPT * _adapter_numbers(SHAPE) * FLOAT
    name = "memory for slot k+1"
    found = [
        Row(f"{name}: adapter, gradients, moments, averages by shapes", kept / MIB, "MiB"),
        Row.at_most(f"{name}: listed by the pack / by shapes", listed / kept, "times", 1.05),
        Row.at_most(f"{name}: all live tensors between steps / by shapes", growth / kept, "times", 1.05),
        Row(
            "memory: backbone neither copied nor moved",
            float(base_is_shared),
            "1 = so",
            "= 1",
            base_is_shared,
        ),
    ]
    if quick:
        return found
    few, many = 2, 6
    peak = (_peak(many) - _peak(few)) / (many - few)
    activations = _activation_numbers(SHAPE) * FLOAT
    return [
        *found,
        Row(f"{name}: activations kept for backward by shapes", activations / MIB, "MiB"),
        Row(f"{name}: growth of peak resident memory", peak / MIB, "MiB"),
        Row.at_most(f"{name}: growth of peak / by shapes", peak / (kept + activations), "times", 1.5),
    ]


def _adapter_numbers(shape: Shape) -> int:
    """P, Λ, Q of all six matrices and the head."""
    squares, fully = 4 * (2 * shape.hidden + 1), 2 * (shape.hidden + shape.ffn + 1)
    return shape.layers * shape.b0 * (squares + fully) + 2 * shape.hidden


def _activation_numbers(shape: Shape) -> int:
    """What backward needs of a layer, per token: input and output of both norms, q, k, v, the attention's
    output, the ReLU's output; and U = x P of the six adapters."""
    per_token = 8 * shape.hidden + shape.ffn + 6 * shape.b0
    return shape.layers * per_token * shape.batch * shape.tokens


def _owned() -> tuple[int, int, bool]:
    """For one slot more, the growth in bytes of what the pack lists and of all live tensors; and whether the base
    weights are where they were, and no other tensors could hold a copy of them."""
    backbone = SHAPE.backbone()
    weights = list(backbone.model.parameters())
    before = [weight.data_ptr() for weight in weights]
    base = {weight.untyped_storage().data_ptr() for weight in weights}
    listed, live, same = [], [], True
    for slots in (3, 4):
        pack = _pack(slots, backbone)
        same &= [weight.data_ptr() for weight in backbone.model.parameters()] == before
        others = [t for t in live_tensors() if t.untyped_storage().data_ptr() not in base]
        listed.append(storage_bytes([*pack.tensors().values(), pack.bank.grad]))
        live.append(storage_bytes(others))
        largest = max(weight.numel() for weight in weights)
        base_shapes = {weight.shape for weight in weights if weight.numel() == largest}
        same &= not any(other.shape in base_shapes for other in others)
        pack.close()
        del pack, others
    return listed[1] - listed[0], live[1] - live[0], same


def _pack(slots: int, backbone: object = None) -> Pack:
    pack = Pack(backbone or SHAPE.backbone(), capacity=slots, max_rank=SHAPE.b0)  # type: ignore[arg-type]
    task = SHAPE.task(20)
    for seed in range(slots):
        pack.admit(SHAPE.trial(seed, targets=tuple(PARTS)), task)
    for _ in range(3):
        pack.step()
    return pack


def _peak(slots: int) -> int:
    command = [sys.executable, "-m", "tests.benchmarks.memory", str(slots)]
    # Freed blocks go back to the system at once: the peak is what is used, not what malloc keeps.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


if __name__ == "__main__":
    torch.set_num_threads(1)
    _pack(int(sys.argv[1]))
    # `getrusage` would give the peak of the process that started this one, if that is larger.
    (line,) = [
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    ]
    print(int(line.split()[1]) * 1024)
