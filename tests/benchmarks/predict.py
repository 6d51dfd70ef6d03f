"""Sequences a second of `predict` against a plain loop over transformers and peft, in the same run, and memory.

    python -m tests.benchmarks.predict [--quick] [--json FILE] [--model FOLDER] [--data FILE]

An adapter with random weights is exported for a backbone: an OPT of 3 million random weights (`--opt-125m`: one of
OPT-125M's shape, for a GPU) with DNA's bases as tokens, or a real model (`--model`). Inputs: sequences of one length,
of many lengths, and (`--data`) a real CSV. The peer reads the same file, tokenises batch by batch in the file's
order, pads each to its longest, computes the model with peft's adapter beside the weights, and writes CSV: what the
card's program does in a loop. Its batch is the size that is fastest for it on the first sequences. `--quick` takes a
small model and few sequences.
"""

import argparse
import csv
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from harness.inference.predict import predict_file
from lingo.backbones import Backbone, load_backbone
from lingo.data import Split, TaskData
from lingo.export import export_adapter
from lingo.pack import Pack
from lingo.trial import TrialConfig
from tests.benchmarks.measure import Row, clock_of, say, table
from tests.lingo.tiny import save_tokenizer

BATCHES = (4, 16, 64)
"""Batch sizes that the peer may choose from, by the time of its first `FIRST` sequences."""

FIRST = 64

SHAPES = {"small": (2, 64, 2), "medium": (4, 256, 4), "opt-125m": (12, 768, 12)}
"""Layers, width and heads."""


def main() -> None:
    """Print the table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--opt-125m", action="store_true")
    parser.add_argument("--count", type=int)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peak", nargs=3, metavar=("ADAPTER", "INPUT", "OUTPUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        _peak_of(*map(Path, options.peak), options.device)
        return
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure(Path(scratch), options)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([row.__dict__ for row in rows], indent=1) + "\n")


def measure(scratch: Path, options: argparse.Namespace) -> list[Row]:
    """The table's lines."""
    shape = SHAPES["small" if options.quick else "opt-125m" if options.opt_125m else "medium"]
    model = options.model or random_model(scratch / "model", shape)
    rows = []
    count = options.count or (64 if options.quick else 256 if options.device == "cpu" else 20_000)
    for method in ("lora", "ars"):
        adapter = random_adapter(load_backbone(model), scratch / method, method)
        inputs = {"100 to 500 bp": fasta_like(scratch / "many.csv", count, low=100)}
        if method == "lora":
            inputs["300 bp"] = fasta_like(scratch / "one.csv", count, low=300, high=300)
        if options.data:
            inputs[options.data.parent.name] = options.data
        for name, source in inputs.items():
            rows += speed(f"{method}, {name}", adapter, source, scratch, options.device)
    rows += memory(scratch, adapter, count, options)
    return rows


def random_model(folder: Path, shape: tuple[int, int, int]) -> Path:
    """An OPT of (layers, width, heads) with random weights, and a tokenizer of bases."""
    from transformers import OPTConfig, OPTForCausalLM

    layers, width, heads = shape
    torch.manual_seed(0)
    config = OPTConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        ffn_dim=4 * width,
        vocab_size=64,
        word_embed_proj_dim=width,
        max_position_embeddings=512,
        pad_token_id=1,
    )
    OPTForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder, pad=True)
    fields = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(fields | {"model_max_length": 512}))
    return folder


def random_adapter(backbone: Backbone, folder: Path, method: str) -> Path:
    """An export whose adapter changes every adapted matrix, in the middle of its budget phase."""
    split = Split(np.arange(8, dtype=np.int16) % 4 + 2, np.array([0, 4, 8]), np.array([0, 1]))
    data = TaskData(
        name="random",
        kind="classification",
        num_labels=2,
        metric="mcc",
        pad_id=backbone.pad_id,
        train=split,
        dev=split,
    )
    config = TrialConfig(method=method, seed=0, batch_size=1, epochs=20, delta_T=4)
    pack = Pack(backbone, max_rank=12)
    slot = pack.admit(config, data)
    pack.bank.theta.normal_(std=0.02, generator=torch.Generator().manual_seed(0))
    export_adapter(pack, slot, folder, card={}, max_length=backbone.max_length)
    pack.close()
    return folder


def fasta_like(path: Path, count: int, *, low: int, high: int = 500) -> Path:
    """A CSV of random sequences."""
    random = np.random.default_rng(0)
    letters = np.frombuffer(b"ACGT", dtype=np.uint8)
    with path.open("w") as file:
        file.write("sequence\n")
        for size in random.integers(low, high + 1, count):
            file.write(letters[random.integers(0, 4, size)].tobytes().decode() + "\n")
    return path


def speed(name: str, adapter: Path, source: Path, scratch: Path, device: str) -> list[Row]:
    """Ours against the peer's best, both without the time of loading, and how far their outputs are apart."""
    ours, theirs = scratch / "ours.csv", scratch / "theirs.csv"
    count = sum(1 for _ in source.open()) - 1
    say(f"{name}: {count} sequences")
    clock = clock_of(device)
    mine = _timed(ours_of(adapter, source, ours, device), clock)
    first = scratch / "first.csv"
    first.write_text("".join(source.read_text().splitlines(keepends=True)[: FIRST + 1]))
    sizes = {size: _timed(peer_of(adapter, first, theirs, device, size), clock) for size in BATCHES}
    size = min(sizes, key=sizes.__getitem__)
    best = _timed(peer_of(adapter, source, theirs, device, size), clock)
    apart = np.abs(_column(ours) - _column(theirs)).max()
    return [
        Row(f"{name}: predict", count / mine, "sequences/s"),
        Row(f"{name}: transformers + peft, batches of {size}", count / best, "sequences/s"),
        Row.at_least(f"{name}: predict / transformers + peft", best / mine, "times", 1.0),
        Row.at_most(f"{name}: largest difference of a probability", float(apart), "", 1e-4),
    ]


def _timed(prepared: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds of the second run, by `measure.clock_of`: the first warms up."""
    prepared()
    start = clock()
    prepared()
    return clock() - start


def ours_of(adapter: Path, source: Path, output: Path, device: str) -> Callable[[], object]:
    """`predict` with its adapter loaded before."""
    from harness.inference import predict as predictions
    from lingo.predict import open_adapter

    predictor = open_adapter(adapter, device=device)

    def work() -> object:
        predictions._predictor = lambda *_: predictor  # type: ignore[assignment]
        return predict_file(adapter, source, output, Console(file=io.StringIO()), on_error="skip")

    return work


def peer_of(adapter: Path, source: Path, output: Path, device: str, size: int) -> Callable[[], object]:
    """The card's program in a loop over batches."""
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer

    facts = json.loads((adapter / "lingo.json").read_text())
    name = facts["backbone"]["source"]
    base = AutoModel.from_pretrained(name, **facts["load"]["options"])
    model = PeftModel.from_pretrained(base, str(adapter)).eval().to(device)
    head = {name: part.to(device) for name, part in load_file(adapter / "head.safetensors").items()}
    tokenizer = AutoTokenizer.from_pretrained(name, padding_side="right")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(facts["pad_token_id"])

    @torch.no_grad()
    def work() -> None:
        with output.open("w") as file:
            writer = csv.writer(file)
            writer.writerow(["p_0", "p_1"])
            for texts in _batches(source, size):
                inputs = tokenizer(
                    texts, return_tensors="pt", padding=True, truncation=True, max_length=facts["max_length"]
                )
                inputs = {k: v.to(device) for k, v in inputs.items() if k in ("input_ids", "attention_mask")}
                last = inputs["attention_mask"].sum(1) - 1
                pooled = model(**inputs).last_hidden_state[range(len(last)), last]
                logits = pooled @ head["weight"].T + head["bias"]
                writer.writerows(logits.double().softmax(1).tolist())

    return work


def _batches(source: Path, size: int) -> Iterator[list[str]]:
    with source.open() as file:
        texts = [row["sequence"] for row in csv.DictReader(file)]
    for start in range(0, len(texts), size):
        yield texts[start : start + size]


def _column(path: Path) -> Any:
    with path.open() as file:
        return np.array([float(row["p_1"]) for row in csv.DictReader(file)])


def memory(scratch: Path, adapter: Path, count: int, options: argparse.Namespace) -> list[Row]:
    """Peak resident memory of a process over n and 10 n sequences; n fills two windows of a small model's input."""
    small = random_model(scratch / "small", SHAPES["small"])
    adapter = random_adapter(load_backbone(small), scratch / "small-adapter", "lora")
    count = 500 if options.quick else 10_000
    peaks = []
    for factor in (1, 10):
        source = fasta_like(scratch / f"{factor}.csv", count * factor, low=30, high=60)
        say(f"memory: {count * factor} sequences")
        command = [sys.executable, "-m", "tests.benchmarks.predict", "--device", options.device, "--peak"]
        done = subprocess.run(
            [*command, str(adapter), str(source), str(scratch / "out.parquet")],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
        )
        peaks.append(int(done.stdout.split()[-1]) / 2**20)
    return [
        Row(f"memory: peak over {count:,} sequences", peaks[0], "MiB"),
        Row(f"memory: peak over {10 * count:,} sequences", peaks[1], "MiB"),
        Row.at_most("memory: 10 n / n sequences", peaks[1] / peaks[0], "times", 1.1),
    ]


def _peak_of(adapter: Path, source: Path, output: Path, device: str) -> None:
    """Predict, and print the peak of this process's resident memory in bytes (Linux)."""
    import resource

    predict_file(adapter, source, output, Console(file=io.StringIO()), device=device)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


if __name__ == "__main__":
    main()
