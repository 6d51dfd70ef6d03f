"""Wall time of AdaLoRA trials in packs, one by one, and as Tune trials with transformers' Trainer and peft.

    python -m tests.benchmarks.search_packs [--trials 32] [--peer-trials 4] [--steps 300] [--json FILE]

The backbone is dispatch-bound: twelve layers of width 32, 60 adapted matrices, batches of 4 sequences of 12
tokens. Packs of 16 and packs of one run the same search (random, no scheduler) on the same kind of worker
group, one worker on one CPU; from the call of `run_search` to its return, the start of the Tuner and of its
clients included, the start of the group apart. The peer is a Tune function trial for each configuration, one
at a time, that trains as many steps of the same size under `Trainer` with peft's AdaLoRA and its allocator,
and evaluates as often; from the call of `Tuner.fit` to its return, divided by its trials. Rows name the idle
share of the worker group while trials were queued.
"""

import argparse
import os
import sys
import tempfile
import time
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.config.search_space import Leaf, SearchSpace
from harness.pool.local_ray import local_ray
from harness.pool.pool import Pool
from harness.search.driver import run_search
from harness.workers.packed_engine import make_engine
from tests.benchmarks.models import TOY
from tests.benchmarks.search_rows import Row, Say, quiet, tell
from tests.support.studies import search_study

PACK, EPOCHS, CPUS = 16, 2, 3
SETTINGS: dict[str, Any] = {
    "b0": TOY.b0,
    "bT": TOY.bT,
    "delta_T": 1,
    "adapter_dropout": 0.0,
    "initial_warmup_ratio": 0.0,
    "final_finetune_ratio": 0.0,
    "targets": ["W_q", "W_k", "W_v", "W_f1", "W_f2"],
}


def toy_backbone(folder: Path) -> str:
    """The dispatch-bound model as a folder, with the quickstart's tokenizer."""
    from transformers import OPTConfig, OPTForCausalLM

    from harness.data.quickstart import make_backbone

    source = make_backbone(folder)
    config = OPTConfig.from_pretrained(source)
    for name, value in {
        "hidden_size": TOY.hidden,
        "word_embed_proj_dim": TOY.hidden,
        "ffn_dim": TOY.ffn,
        "num_hidden_layers": TOY.layers,
        "num_attention_heads": TOY.heads,
    }.items():
        setattr(config, name, value)
    OPTForCausalLM(config).save_pretrained(source)
    return str(source)


def prepared(folder: Path, source: str, rows: int) -> str:
    """The quickstart's first task, cut to so many rows of 12 tokens."""
    from harness.data.prepared import prepare
    from harness.data.quickstart import make_data
    from harness.data.tasks import SUITES, TASKS
    from lingo.backbones import load_backbone

    backbone = load_backbone(source)
    task = prepare(
        TASKS[SUITES["quickstart"][0]],
        make_data(folder / "csv"),
        folder / "data",
        tokenizer=backbone.tokenizer,
        pad_id=backbone.pad_id,
        max_length=TOY.tokens,
        limit=rows,
    )
    return str(task.folder)


def search_seconds(source: str, data: str, trials: int, pack: int) -> tuple[float, dict[str, float]]:
    """(wall seconds of a search in packs of so many, how the worker group's time was used)."""
    rate = Leaf(type="float", low=1e-5, high=1e-3, log=True)
    plan = search_study(
        f"packs/{pack}|toy|adalora",
        SearchSpace(method="adalora", leaves={"learning_rate": rate}, fixed=SETTINGS),
        trials,
        source=source,
        data=data,
        epochs=EPOCHS,
        batch_size=TOY.batch,
        searcher="random",
        scheduler="none",
    )
    engine = partial(make_engine, pack=pack, max_rank=TOY.b0)
    with local_ray(CPUS), Pool.start(engine, slots=pack) as pool:
        begun = time.perf_counter()
        (outcomes,) = run_search([plan], pool, on_event=quiet).values()
        seconds = time.perf_counter() - begun
        assert [outcome.status for outcome in outcomes] == ["finished"] * trials, outcomes
        return seconds, pool.usage()


def peer_trial(config: dict[str, Any]) -> None:
    """One configuration: peft's AdaLoRA under transformers' Trainer, evaluated after every epoch."""
    sys.path.append(config["root"])
    import numpy as np
    import torch
    from ray import tune
    from sklearn.metrics import matthews_corrcoef
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from tests.benchmarks.models import TOY
    from tests.benchmarks.peers import peft_model

    torch.set_num_threads(1)
    steps = config["steps"]
    trial = TOY.trial(learning_rate=config["learning_rate"])
    model = peft_model(TOY, trial, total_steps=steps)
    split = TOY.task(steps // EPOCHS).train
    rows = [
        {"input_ids": split.ids[a : a + TOY.tokens].astype("int64"), "labels": int(label)}
        for a, label in zip(split.offsets, split.labels, strict=False)
    ]

    class Allocate(TrainerCallback):
        done = 0

        def on_optimizer_step(self, *_: Any, **__: Any) -> None:
            self.done += 1
            model.base_model.update_and_allocate(self.done)

    def mcc(predicted: Any) -> dict[str, float]:
        return {"mcc": float(matthews_corrcoef(predicted.label_ids, np.argmax(predicted.predictions, 1)))}

    arguments = TrainingArguments(
        output_dir=config["scratch"],
        per_device_train_batch_size=TOY.batch,
        per_device_eval_batch_size=256,
        num_train_epochs=EPOCHS,
        learning_rate=trial.learning_rate,
        eval_strategy="epoch",
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        use_cpu=True,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=rows,
        compute_metrics=mcc,
        callbacks=[Allocate()],
    )
    trainer.train()
    assert trainer.state.global_step == steps
    tune.report({"objective": trainer.evaluate()["eval_mcc"]})


def peer_seconds(trials: int, steps: int, scratch: str) -> float:
    """Wall seconds of a trial of the peer."""
    from ray import tune

    root = str(Path(__file__).resolve().parents[2])
    with local_ray(CPUS):
        tuner = tune.Tuner(
            tune.with_resources(peer_trial, {"CPU": 1}),
            param_space={
                "learning_rate": tune.loguniform(1e-5, 1e-3),
                "steps": steps,
                "scratch": scratch,
                "root": root,
            },
            tune_config=tune.TuneConfig(
                metric="objective", mode="max", num_samples=trials, max_concurrent_trials=1
            ),
            run_config=tune.RunConfig(storage_path=scratch, verbose=0),
        )
        begun = time.perf_counter()
        with Path(os.devnull).open("w") as silence, redirect_stdout(silence):
            results = tuner.fit()
        seconds = time.perf_counter() - begun
    assert len(results) == trials and not results.errors, results.errors
    return seconds / trials


def pack_rows(say: Say, trials: int = 32, peer_trials: int = 4, steps: int = 300) -> list[Row]:
    """All rows, on this machine, one after the other."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source = toy_backbone(folder / "model")
        data = prepared(folder, source, steps * TOY.batch // EPOCHS)
        say(f"{trials} trials of {steps} steps in packs of {PACK} …")
        packed, usage = search_seconds(source, data, trials, PACK)
        say(f"{packed:.0f} s; one by one …")
        single, _ = search_seconds(source, data, trials, 1)
        say(f"{single:.0f} s; {peer_trials} Tune trials with Trainer and peft …")
        peer = peer_seconds(peer_trials, steps, str(folder / "peer")) * trials
    idle = 100 * usage["idle_share"]
    return [
        Row(f"packs: {trials} trials in packs of {PACK}", packed, "s"),
        Row(f"packs: {trials} trials one by one", single, "s"),
        Row("packs: one by one / packs", single / packed, "x", ">= 1.5", single / packed >= 1.5),
        Row(f"packs: {trials} Tune trials with Trainer and peft", peer, "s"),
        Row("packs: Tune with Trainer and peft / packs", peer / packed, "x", ">= 8", peer / packed >= 8),
        Row("packs: group without a job while trials are queued", idle, "%", "<= 5", idle <= 5),
        Row("packs: slots of the group empty while trials are queued", 100 * usage["empty_slots_share"], "%"),
    ]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--peer-trials", type=int, default=4)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    say = Console(stderr=True).print
    rows = pack_rows(say, options.trials, options.peer_trials, options.steps)
    tell(rows, options.json)


if __name__ == "__main__":
    main()
