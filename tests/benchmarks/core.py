"""Speed and memory of the packed core beside peft, measured in one run.

    python -m tests.benchmarks.core [--json FILE] [--only NAME ...] [--device cuda] [--threads 1] [--quick]

Peers are timed in turn with the pack, a few steps each, and medians are compared: peft's AdaLoRA under a
plain training loop with fused AdamW, and under transformers' Trainer with a callback that allocates. Both sides
clip gradients and follow a linear schedule. `--quick` does less of everything, to see that it runs.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from lingo.backbones import load_backbone
from lingo.flops import OPT_125M as OPT_125M_FLOPS
from lingo.flops import step_flops
from lingo.pack import Pack
from lingo.packed_linear import PackedLinear
from lingo.parameters import trained_parameters
from lingo.ranks import Allocation
from lingo.slot import stacked
from tests.benchmarks import memory
from tests.benchmarks.measure import VIEWS, Operators, Row, Traffic, clock_of, say, side_by_side, table
from tests.benchmarks.models import OPT_125M, TARGETS, TOY, Shape, table_task
from tests.benchmarks.peers import PlainLoop, TrainerLoop

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12, "T4": 65e12}
"""Dense bf16 (T4: fp16) FLOP/s by the makers' data sheets, by a part of the device's name."""

SMALL = Shape(layers=12, hidden=768, ffn=3072, heads=12, batch=2, tokens=8)
"""OPT-125M with a batch that hardly computes: the operators of a step are the same."""

MIDDLE = Shape(layers=4, hidden=256, ffn=1024, heads=4, batch=8, tokens=70)
"""A third of OPT-125M's layers and width."""


def pack_of(shape: Shape, slots: int, *, steps: int, dtype: torch.dtype = torch.float32, device: str = "cpu",
            **settings: Any) -> Pack:  # fmt: skip
    """A pack with `slots` trials of one shape, each with a seed of its own."""
    pack = Pack(shape.backbone(dtype=dtype, device=device), capacity=slots, max_rank=shape.b0)
    task = shape.task(steps)
    for seed in range(slots):
        pack.admit(shape.trial(seed, **settings), task)
    return pack


def operators(args: argparse.Namespace) -> list[Row]:
    """Operators of one step with allocation, views left out."""
    say(f"operators: views, not counted, are {', '.join(sorted(VIEWS))}")
    shape = TOY if args.quick else SMALL
    peer = PlainLoop(shape, shape.trial(), steps=20)
    theirs = Operators.of(peer.step)
    del peer
    rows = [Row("operators a step, peft AdaLoRA with fused AdamW", theirs.total(), "operators")]
    for slots, reach in ((1, 1300), (16, 100)):
        counts = Operators.of(pack_of(shape, slots, steps=20).step)
        say(f"operators, K={slots}: {', '.join(f'{n} {name}' for name, n in counts.most_common(12))}")
        name = f"operators a trial step, K={slots}"
        rows.append(Row.at_most(name, counts.total() / slots, "operators", reach))
    counts = Operators.of(pack_of(shape, 16, steps=20, adapter_dropout=0.05).step)
    rows.append(
        Row.at_most("operators a trial step, K=16, dropout 0.05", counts.total() / 16, "operators", 60)
    )
    return rows


SEARCHED = ("W_q", "W_v"), ("W_q", "W_k", "W_v"), TARGETS
"""Targets of trials that train beside each other, as a search has them."""


def traffic(args: argparse.Namespace) -> list[Row]:
    """Bytes that a step moves outside of its forward and backward passes, for each byte of what the trials train."""
    shape, slots = TOY if args.quick else SMALL, 16
    task, rows = shape.task(20), []
    for name, most, ranks, targets in (
        ("one configuration", shape.b0, (shape.b0,), (TARGETS,)),
        ("ranks 2, 4 and 8 of at most 16, three sets of targets", 16, (2, 4, 8), SEARCHED),
        ("rank 8 of at most 16, q and v", 16, (8,), (("W_q", "W_v"),)),
    ):
        pack = Pack(shape.backbone(), capacity=slots, max_rank=most)
        for seed in range(slots):
            rank = ranks[seed % len(ranks)]
            own = {"b0": rank, "bT": rank // 2, "targets": targets[seed // len(ranks) % len(targets)]}
            pack.admit(shape.trial(seed, learning_rate=1e-4 * (1 + seed), **own), task)
        for _ in range(3):
            pack.step()
        backward = pack._backward
        with Traffic() as mode:

            def resting(*given: Any, mode: Traffic = mode, backward: Any = backward) -> None:
                with mode.resting():
                    backward(*given)

            pack._backward = resting  # type: ignore[method-assign]
            pack.step()
        say(f"bytes, {name}: {', '.join(f'{n / 1e6:.0f} MB {op}' for op, n in mode.counts.most_common(12))}")
        trained = sum(trained_parameters(pack, slot) for slot in pack.slots) * pack.dtype.itemsize
        rows.append(Row(f"bytes moved outside forward and backward, K={slots}, {name}",
                        mode.counts.total() / trained, "bytes a trained byte"))  # fmt: skip
    return rows


def allocator(args: argparse.Namespace) -> list[Row]:
    """Importance, scores and masks, against peft's `update_ipt` and `mask_to_budget`."""
    shape = TOY if args.quick else SMALL
    peer, pack = PlainLoop(shape, shape.trial(), steps=20), pack_of(shape, 1, steps=20)
    # Gradients must be there; peft's loop clears them.
    peer.optimizer.zero_grad = lambda: None
    for _ in range(3):
        peer.step()
        pack.step()
    model = peer.model.base_model
    ranks, budget = model.rankallocator, pack.slots[0].schedule.budget(4)  # type: ignore[union-attr]
    numbers = stacked(pack.slots, device=pack.device, dtype=pack.dtype)
    bank, layout = pack.bank, pack.layout
    grad = torch.randn_like(bank.theta)
    theta, valid = bank.theta, bank.valid

    def ours_update() -> None:
        pack.importance.update(theta, grad, numbers.sensitivity_rate, numbers.uncertainty_rate)

    def ours_mask() -> None:
        drawn = torch.zeros_like(valid)
        event = Allocation(
            numbers.allocates, numbers.budget, drawn, numbers.regrow, numbers.zero, numbers.mask
        )
        scores = pack.importance.scores(1, valid)
        event.apply(scores, lam=layout.lam(theta), keep=bank.keep, valid=valid)

    works: list[Callable[[], object]] = [
        lambda: ranks.update_ipt(model.model),
        lambda: ranks.mask_to_budget(model.model, budget),
        ours_update,
        ours_mask,
    ]
    times = side_by_side(
        works, repetitions=5 if args.quick else 15, calls=[3, 3, 9, 9], clock=clock_of("cpu")
    )
    names = ("peft update_ipt", "peft mask_to_budget", "importance update", "scores and masks")
    rows = [Row(f"allocator: {name}", time * 1e3, "ms") for name, time in zip(names, times, strict=True)]
    ratio = (times[0] + times[1]) / (times[2] + times[3])
    return [*rows, Row.at_least("allocator, peft / pack", ratio, "times", 10)]


def toy(args: argparse.Namespace) -> list[Row]:
    """A model so small that the time goes into dispatching operators."""
    rows, steps, repetitions = [], 10, 3 if args.quick else 9
    total = steps * (repetitions + 2) + 1
    clock = clock_of("cpu")
    for dropout in (0.0, 0.05):
        settings: dict[str, Any] = {"adapter_dropout": dropout, "delta_T": 10}
        peer = PlainLoop(TOY, TOY.trial(**settings), steps=total)
        packs = [pack_of(TOY, slots, steps=total, **settings) for slots in (1, 16)]
        works = [peer.step, *(pack.step for pack in packs)]
        times = side_by_side(works, repetitions=repetitions, calls=[steps] * 3, clock=clock)
        each = [times[0], times[1], times[2] / 16]
        name = f"toy, dropout {dropout:g}"
        rows.append(Row(f"{name}: peft AdaLoRA", each[0] * 1e3, "ms a trial step"))
        for slots, time, reach in ((1, each[1], 3.0), (16, each[2], 15.0)):
            rows.append(Row(f"{name}: pack, K={slots}", time * 1e3, "ms a trial step"))
            rows.append(Row.at_least(f"{name}: peft / pack, K={slots}", each[0] / time, "times", reach))
    return rows


def stories(args: argparse.Namespace) -> list[Row]:
    """A small real backbone on a real task (mouse/2 of GUE), alone and in a pack of eight."""
    shared = Path(os.environ.get("LINGO_SHARED", "../shared"))
    folder, rows = shared / "models/stories260K", shared / "data/gue/mouse/2/train.csv"
    name = "stories260K, mouse/2, {}: trial step K=1 / K=8"
    if not (folder.exists() and rows.exists()):
        return [Row(name.format("dropout 0.05"), None, "times")]
    repetitions, calls = (1, [2, 1]) if args.quick else (9, [16, 4])
    found = []
    for dropout in (0.05, 0.0):
        packs = [Pack(load_backbone(folder), capacity=slots, max_rank=8) for slots in (1, 8)]
        task = table_task(rows, packs[0].backbone)
        for pack in packs:
            for seed in range(pack.capacity):
                settings = {"method": "ars", "b0": 8, "bT": 4, "rank": 8, "batch_size": 8, "epochs": 9}
                pack.admit(TOY.trial(seed, adapter_dropout=dropout, delta_T=10, **settings), task)
        times = side_by_side(
            [pack.step for pack in packs], repetitions=repetitions, calls=calls, clock=clock_of("cpu")
        )
        ratio, words = times[0] / (times[1] / 8), f"dropout {dropout:g}"
        found.append(
            Row.at_least(name.format(words), ratio, "times", 1.15)
            if dropout
            else Row(name.format(words), ratio, "times")
        )
    return found


def lengths(args: argparse.Namespace) -> list[Row]:
    """Four trials of 70, 160, 300 and 500 tokens in one pack, against each in a pack of its own."""
    lengths, repetitions = (12, 24, 36, 48) if args.quick else (70, 160, 300, 500), 3
    shapes = [replace(TOY if args.quick else MIDDLE, tokens=tokens) for tokens in lengths]
    settings: dict[str, Any] = {"delta_T": 2, "adapter_dropout": 0.05}
    apart = [pack_of(shape, 1, steps=repetitions + 2, **settings) for shape in shapes]
    mixed = Pack(shapes[0].backbone(), capacity=len(shapes), max_rank=shapes[0].b0)
    for seed, shape in enumerate(shapes):
        mixed.admit(shape.trial(seed, **settings), shape.task(repetitions + 2))
    works = [mixed.step, *(pack.step for pack in apart)]
    times = side_by_side(works, repetitions=repetitions, calls=[1] * len(works), clock=clock_of("cpu"))
    name = "lengths of 70, 160, 300 and 500 tokens: one pack / apart"
    return [Row.at_most(name, times[0] / sum(times[1:]), "times", 1.1)]


def trainer(args: argparse.Namespace) -> list[Row]:
    """The toy model under transformers' Trainer."""
    steps, repetitions = 10, 2 if args.quick else 7
    total = (steps + 2) * (repetitions + 1) + 1
    clock = clock_of("cpu")
    settings: dict[str, Any] = {"delta_T": 10}
    peer = TrainerLoop(TOY, TOY.trial(**settings), steps=total, clock=clock)
    packs = [pack_of(TOY, slots, steps=total, **settings) for slots in (1, 16)]
    found: list[float] = []
    works = [lambda: found.append(peer.seconds_a_step(steps)), *(pack.step for pack in packs)]
    times = side_by_side(works, repetitions=repetitions, calls=[1, steps, steps], clock=clock)
    theirs = sorted(found[1:])[len(found[1:]) // 2]
    rows = [Row("toy: transformers' Trainer with peft AdaLoRA", theirs * 1e3, "ms a trial step")]
    for slots, time in ((1, times[1]), (16, times[2] / 16)):
        rows.append(Row(f"toy: Trainer with peft / pack, K={slots}", theirs / time, "times"))
    return rows


def bf16(args: argparse.Namespace) -> list[Row]:
    """Frozen weights in bfloat16 against float32; adapters are float32 in both."""
    has = torch.backends.cpu.get_cpu_capability() if args.device == "cpu" else args.device
    native = (
        args.device != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
    say(f"bf16: {has}, bf16 instructions: {'yes' if native else 'no'}")
    shape, repetitions = (TOY, 1) if args.quick else (OPT_125M, 5)
    packs = [
        pack_of(shape, 1, steps=repetitions + 2, dtype=dtype, device=args.device, delta_T=2)
        for dtype in (torch.float32, torch.bfloat16)
    ]
    works = [pack.step for pack in packs]
    times = side_by_side(works, repetitions=repetitions, calls=[1, 1], clock=clock_of(args.device))
    words = f"{torch.get_num_threads()} thread(s), bf16 instructions: {'yes' if native else 'no'}"
    name = "toy" if args.quick else "OPT-125M shape, 8 x 70 tokens"
    return [
        Row(f"step, {name}, fp32 frozen weights", times[0] * 1e3, "ms"),
        Row(f"step, {name}, bf16 frozen weights", times[1] * 1e3, "ms"),
        Row.at_least(f"step, {name}: fp32 / bf16 ({words})", times[0] / times[1], "times", 2),
    ]


def floor(args: argparse.Namespace) -> list[Row]:
    """A step with bf16 frozen weights against the products of its frozen matrices alone, forward and backward."""
    shape, repetitions = (TOY, 1) if args.quick else (OPT_125M, 3)
    pack = pack_of(shape, 1, steps=repetitions + 2, dtype=torch.bfloat16, device=args.device, delta_T=2)
    weights = [module.weight for module in pack.backbone.model.modules() if isinstance(module, PackedLinear)]
    x = {
        width: torch.randn(shape.batch * shape.tokens, width, device=args.device, dtype=torch.bfloat16)
        for width in (shape.hidden, shape.ffn)
    }

    def products() -> None:
        for weight in weights:
            F.linear(x[weight.shape[1]], weight)
            F.linear(x[weight.shape[0]], weight.t())

    times = side_by_side(
        [pack.step, products], repetitions=repetitions, calls=[1, 1], clock=clock_of(args.device)
    )
    name = "toy" if args.quick else "OPT-125M shape, 8 x 70 tokens"
    return [
        Row.at_most(f"step, {name}, bf16 / products of frozen matrices", times[0] / times[1], "times", 1.2)
    ]


def slot_memory(args: argparse.Namespace) -> list[Row]:
    """What one slot more costs, and that the base is not copied."""
    return memory.rows(quick=args.quick)


def gpu(args: argparse.Namespace) -> list[Row]:
    """Trial steps a second on a GPU for K = 1 to 64, against peft, and the share of its peak."""
    if args.device == "cpu" and not args.quick:
        unmeasured = {
            "trial steps/s": "trial steps a second, K = 1 to 64",
            "times": "best pack / peft AdaLoRA",
            "%": "best MFU",
        }
        reaches = {"times": ">= 20", "%": ">= 40"}
        return [
            Row(f"GPU: {name} (not measured: no CUDA device)", None, unit, reaches.get(unit, ""))
            for unit, name in unmeasured.items()
        ]
    shape, dtype = (TOY, torch.float32) if args.quick else (OPT_125M, torch.bfloat16)
    word = "GPU" if args.device == "cuda" else "CPU in place of a GPU"
    steps, repetitions = 5, 2 if args.quick else 5
    total = steps * (repetitions + 1) + 1

    def trial_steps(work: Callable[[], object], slots: int) -> float:
        (time,) = side_by_side([work], repetitions=repetitions, calls=[steps], clock=clock_of(args.device))
        return slots / time

    rates: dict[str, float] = {}
    for method in ("lora", "adalora"):
        trial = shape.trial(method=method, delta_T=10)
        peer = PlainLoop(shape, trial, steps=total, dtype=dtype, device=args.device)
        rates[f"peft {method}"] = trial_steps(peer.step, 1)
        del peer
    for slots in (1, 4, 16) if args.quick else (1, 2, 4, 8, 16, 32, 64):
        pack = pack_of(shape, slots, steps=total, dtype=dtype, device=args.device, delta_T=10)
        rates[f"pack, K={slots}"] = trial_steps(pack.step, slots)
        pack.close()
        del pack
    rows = [Row(f"{word}: {name}", rate, "trial steps/s") for name, rate in rates.items()]
    best = max(rates.values())
    rows.append(Row.at_least(f"{word}: best pack / peft AdaLoRA", best / rates["peft adalora"], "times", 20))
    if peak := _peak(args):
        rows.append(Row.at_least(f"{word}: best MFU", 100 * best * _trial_flops(shape) / peak, "%", 40))
    return rows


def _trial_flops(shape: Shape) -> float:
    """FLOPs of one trial step: one formula for every K, whatever is really computed."""
    opt = replace(
        OPT_125M_FLOPS,
        layers=shape.layers,
        hidden=shape.hidden,
        intermediate=shape.ffn,
        heads=shape.heads,
        kv_heads=shape.heads,
        head_dim=shape.hidden // shape.heads,
    )
    size = {"length": shape.tokens, "batch": shape.batch}
    return step_flops(opt, **size, targets=TARGETS, rank=shape.b0, svd=True, delta_T=10).total


def _peak(args: argparse.Namespace) -> float:
    if args.peak_tflops or args.device == "cpu":
        return (args.peak_tflops or 0.0) * 1e12
    name = torch.cuda.get_device_name()
    return next((flops for part, flops in PEAK_FLOPS.items() if part in name), 0.0)


PARTS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "operators": operators,
    "traffic": traffic,
    "allocator": allocator,
    "toy": toy,
    "stories": stories,
    "lengths": lengths,
    "trainer": trainer,
    "bf16": bf16,
    "floor": floor,
    "memory": slot_memory,
    "gpu": gpu,
}


def main() -> int:
    """Measure, print the table, and write it as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the rows to this file as well")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="NAME", help=", ".join(PARTS)
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--peak-tflops", type=float, help="the GPU's peak, where its name is not known here")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("`--device cuda` needs a CUDA device, but there is none.")
    torch.set_num_threads(args.threads)
    rows: list[Row] = []
    for name in args.only:
        say(f"measuring {name} …")
        rows += PARTS[name](args)
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
