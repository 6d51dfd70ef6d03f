"""What a GPU does: speed of packs beside peft, memory, and recovery from a lack of it. One script, without Ray.

    python -m tests.benchmarks.gpu [--json FILE] [--seconds 470] [--only NAME ...]
    python -m tests.benchmarks.gpu --device cpu --quick     # the rehearsal: that everything runs, on a toy

Every part that ends is written to `--json` at once; after `--seconds` no further one starts. A part that fails is a row
of its own and stops nothing. Trial steps are timed on the wall, with the device waited for, after a warm-up.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from lingo.flops import OPT_125M as OPT_125M_FLOPS
from lingo.flops import step_flops
from lingo.memory import out_of_memory
from lingo.pack import Pack
from tests.benchmarks.measure import Row, say, table
from tests.benchmarks.models import OPT_125M, TARGETS, TOY, Shape
from tests.benchmarks.peers import PlainLoop

ROOT = Path(__file__).resolve().parents[2]
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12, "T4": 65e12}
"""Dense bf16 (T4: fp16) FLOP/s by the makers' data sheets, by a part of the device's name."""
LENGTHS, SIZES, PROCESSES = (70, 160, 512), (1, 4, 8, 16, 32, 64), 8
MANY = 4096
"""Steps that no measurement reaches; schedules end there."""


class Bench:
    """The parts, and the rates that several of them compare with."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.device, self.quick = args.device, args.quick
        self.dtype = torch.float32 if args.quick else torch.bfloat16
        self.seconds = 0.2 if args.quick else 1.5
        self.shapes = [TOY] if args.quick else [replace(OPT_125M, tokens=tokens) for tokens in LENGTHS]
        self.rates: dict[tuple[int, str], float] = {}

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def rate(self, step: Callable[[], object], trials: int = 1) -> float:
        """Trial steps a second."""
        for _ in range(1 if self.quick else 4):
            step()
        self.wait()
        begun, steps = time.perf_counter(), 0
        while (spent := time.perf_counter() - begun) < self.seconds:
            for _ in range(2):
                step()
            self.wait()
            steps += 2
        return steps * trials / spent

    def pack(self, shape: Shape, trials: int, **settings: Any) -> Pack:
        pack = Pack(shape.backbone(dtype=self.dtype, device=self.device), capacity=trials, max_rank=16)
        data = shape.task(MANY)
        for seed in range(trials):
            pack.admit(shape.trial(seed, adapter_dropout=0.05, delta_T=10, **settings), data)
        return pack

    # --- the parts ------------------------------------------------------------------------------------------

    def tests(self) -> list[Row]:
        """The tests marked `gpu`."""
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/lingo", "-p", "no:cacheprovider"]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        say(ended.stdout[-2000:])
        passed = ended.returncode in (0, 5)  # 5: none was collected
        return [Row("tests marked gpu: exit code", float(ended.returncode), "", "= 0", passed)]

    def peers(self) -> list[Row]:
        """peft in the same process, and in several side by side."""
        rows = []
        for shape in self.shapes:
            for method in ("lora", "adalora"):
                trial = shape.trial(method=method, adapter_dropout=0.05, delta_T=10)
                peer = PlainLoop(shape, trial, steps=MANY, dtype=self.dtype, device=self.device)
                rate = self.rates[shape.tokens, method] = self.rate(peer.step)
                del peer
                rows.append(Row(f"{shape.tokens} tokens: peft {method}", rate, "trial steps/s"))
        return rows

    def side_by_side(self) -> list[Row]:
        """Eight processes of peft AdaLoRA on one device (two in the rehearsal)."""
        count = 2 if self.quick else PROCESSES
        command = [sys.executable, "-m", "tests.benchmarks.gpu", "--device", self.device, "--one-peer"]
        command += ["--quick"] if self.quick else []
        running = [
            subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(count)
        ]
        found = sum(float(process.communicate()[0].split()[-1]) for process in running)
        shape = self.shapes[0]
        self.rates[shape.tokens, "side by side"] = found
        return [Row(f"{shape.tokens} tokens: {count} processes of peft adalora", found, "trial steps/s")]

    def packs(self) -> list[Row]:
        """Packs of 1 to 64 trials: speed, share of the peak, memory."""
        rows, peak = [], self._peak()
        for shape in self.shapes:
            best = 0.0
            for size in (1, 4) if self.quick else SIZES:
                try:
                    if self.device == "cuda":
                        torch.cuda.reset_peak_memory_stats()
                    pack = self.pack(shape, size)
                    rate = self.rate(pack.step, size)
                    pack.close()
                    del pack
                except Exception as error:
                    if not out_of_memory(error):
                        raise
                    rows.append(Row(f"{shape.tokens} tokens: K={size}: out of memory", None, ""))
                    torch.cuda.empty_cache()
                    break
                best = max(best, rate)
                name = f"{shape.tokens} tokens: pack, K={size}"
                rows.append(Row(name, rate, "trial steps/s"))
                if self.device == "cuda":
                    rows.append(Row(f"{name}: peak memory", torch.cuda.max_memory_allocated() / 2**30, "GiB"))
            for name, peer in self.rates.items():
                if name[0] == shape.tokens:
                    reach = {"adalora": 20.0}.get(name[1], 1.0)
                    rows.append(
                        Row.at_least(
                            f"{shape.tokens} tokens: best pack / peft {name[1]}", best / peer, "times", reach
                        )
                    )
            if peak:
                rows.append(
                    Row.at_least(
                        f"{shape.tokens} tokens: best MFU", 100 * best * flops(shape) / peak, "%", 40
                    )
                )
        return rows

    def waits(self) -> list[Row]:
        """Waits of a step, by CUDA's own detector; the rehearsal sees that it runs."""
        pack = self.pack(self.shapes[0], 4)
        for _ in range(12):
            pack.step()
        self.wait()
        found = 0
        if self.device == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(12):
                pack.step()
        except RuntimeError as error:
            say(f"a step waits: {error}")
            found = 1
        finally:
            if self.device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
            pack.close()
        return [Row.at_most("waits in a step", found, "", 0)]

    def full(self) -> list[Row]:
        """Full fine-tuning and prediction."""
        shape = self.shapes[0]
        backbone = shape.backbone(device=self.device)
        pack = Pack(backbone, full=True)
        pack.admit(shape.trial(method="fmft"), shape.task(MANY))
        rate = self.rate(pack.step)
        pack.close()
        pack = self.pack(shape, 1)
        split = shape.task(64 if self.quick else 512).dev
        rows = self.rate(lambda: pack.predict(pack.slots[0], split)) * len(split)
        pack.close()
        return [Row("full fine-tuning, fp32", rate, "steps/s"), Row("predict", rows, "rows/s")]

    def memory(self) -> list[Row]:
        """A step that does not fit is split until it does; without a GPU the lack is made up."""
        shape = self.shapes[-1]
        pack = self.pack(shape, 1)
        pack.step()
        real, most = Pack._logits, 1

        def short(self: Pack, ids: torch.Tensor, *args: Any, **more: Any) -> torch.Tensor:
            if len(ids) > most:
                raise RuntimeError(
                    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
                )
            return real(self, ids, *args, **more)

        if self.device == "cuda":
            torch.cuda.empty_cache()
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(1.1 * torch.cuda.memory_allocated() / total)
        else:
            Pack._logits = short  # type: ignore[method-assign]
        try:
            while pack.micro_batches <= shape.batch:
                try:
                    pack.step()
                    break
                except Exception as error:
                    if not out_of_memory(error) or pack.midway:
                        raise
                pack.micro_batches *= 2
        finally:
            Pack._logits = real  # type: ignore[method-assign]
            if self.device == "cuda":
                torch.cuda.set_per_process_memory_fraction(1.0)
        fits = pack.micro_batches <= shape.batch
        return [
            Row("out of memory: parts of a batch that fit", float(pack.micro_batches), "", "goes on", fits)
        ]

    def _peak(self) -> float:
        if self.device != "cuda":
            return 0.0
        name = torch.cuda.get_device_name()
        return next((flops for part, flops in PEAK_FLOPS.items() if part in name), 0.0)


def flops(shape: Shape) -> float:
    """FLOPs of one trial step: one formula for every K, whatever is really computed."""
    opt = replace(OPT_125M_FLOPS, layers=shape.layers, hidden=shape.hidden, intermediate=shape.ffn, heads=shape.heads,
                  kv_heads=shape.heads, head_dim=shape.hidden // shape.heads)  # fmt: skip
    size = {"length": shape.tokens, "batch": shape.batch}
    return step_flops(opt, **size, targets=TARGETS, rank=shape.b0, svd=True, delta_T=10).total


PARTS = ("tests", "peers", "side_by_side", "packs", "waits", "full", "memory")


def main() -> int:
    """Measure part after part; exit code 1 where one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the rows to this file as well")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="NAME", help=", ".join(PARTS)
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--seconds", type=float, default=470.0, help="after these no further part starts")
    parser.add_argument("--quick", action="store_true", help="a toy, to see that it runs")
    parser.add_argument("--one-peer", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error(
            "`--device cuda` needs a CUDA device, but there is none; `--device cpu --quick` rehearses."
        )
    bench = Bench(args)
    if args.one_peer:
        shape = bench.shapes[0]
        trial = shape.trial(adapter_dropout=0.05, delta_T=10)
        print(bench.rate(PlainLoop(shape, trial, steps=MANY, dtype=bench.dtype, device=bench.device).step))
        return 0
    name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU in place of a GPU"
    say(f"{name}, PyTorch {torch.__version__}, transformers {transformers.__version__}")
    begun, rows, failed = time.monotonic(), [], False
    for part in args.only:
        if time.monotonic() - begun > args.seconds:
            rows.append(Row(f"{part}: not started, {args.seconds:.0f} s are over", None, ""))
            continue
        say(f"measuring {part} …")
        try:
            rows += getattr(bench, part)()
        except Exception as error:  # the other parts are worth having
            failed = True
            rows.append(
                Row(f"{part}: failed ({type(error).__name__}: {str(error).splitlines()[0][:150]})", None, "")
            )
        if args.json:
            args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print(table(rows))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
