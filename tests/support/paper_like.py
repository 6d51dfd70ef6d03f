"""A made-up run in the paper's shape, for tests of the report: the published scores with known noise over seeds.

    python -m tests.support.paper_like FOLDER

writes one to look at.
"""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.data.tasks import TASKS
from harness.report.naming import PAPER_DATASETS, PUBLISHED_METRIC
from harness.report.paper.published import parameter_count, read_published
from harness.runs.layout import file_name
from harness.runs.record import Record
from harness.runs.store import ResultStore

PUBLISHED = read_published()
BACKBONES = {
    "dnabert-2": "DNABERT-2",
    "nt-500m-1000g": "NT-500M",
    "opt-125m": "OPT-125M",
    "opt-350m": "OPT-350M",
}
STEP_FLOPS = {"dnabert-2": 1.1e12, "nt-500m-1000g": 4.6e12, "opt-125m": 1e12, "opt-350m": 2.7e12}
LAYERS = {"dnabert-2": 12, "nt-500m-1000g": 24, "opt-125m": 12, "opt-350m": 24}
DEEPSEA = {"dnabert-2": 0.738, "nt-500m-1000g": 0.744, "opt-125m": 0.757, "opt-350m": 0.774}
BASELINES = {"kmer_logreg": -0.06, "onehot_cnn": -0.03}
NOISE = 0.006
LEAVES = {
    "learning_rate": {"type": "float", "low": 1e-5, "high": 1e-2, "log": True, "choices": []},
    "b0": {"type": "int", "low": 4, "high": 16, "log": False, "choices": []},
    "p": {"type": "float", "low": 0.0, "high": 0.3, "log": False, "choices": []},
}
FIXED = {
    "bT": 6,
    "delta_T": 100,
    "beta1": 0.85,
    "beta2": 0.85,
    "final_finetune_ratio": 0.25,
    "targets": ["W_q", "W_k", "W_v", "W_f1", "W_f2"],
}
ENVIRONMENT = {
    "versions": {"python": "3.11.7", "torch": "2.13.0", "ray": "2.60.0"},
    "git_sha": "0123456789abcdef",
    "git_dirty": False,
    "device": {
        "system": "Linux",
        "machine": "x86_64",
        "cores": 16,
        "memory_gib": 128.0,
        "accelerators": ["GPU"],
    },
}


def studies(tasks, backbones=BACKBONES):
    """(task, backbone, method, true score) of every study; Lingo on the OPTs only, as in the paper."""
    published = PUBLISHED.scores
    for task in tasks:
        name = PAPER_DATASETS[task]
        for backbone in backbones:
            for method in ("fmft", "lora", "adalora", "ars", "lingo"):
                if method == "lingo" and "opt" not in backbone:
                    continue
                place = ("fmft", "lora", "adalora", "ars", "lingo").index(method)
                score = published.get(
                    (BACKBONES[backbone], method, name), DEEPSEA[backbone] + 0.004 * (place - 3)
                )
                yield task, backbone, method, score
        rows = [value for (_, _, dataset), value in published.items() if dataset == name] or [0.75]
        for method, shift in BASELINES.items():
            yield task, "none", method, float(np.mean(rows)) + shift


def score_facts(task, score, rng):
    """Metrics of one split whose reported metric is `score`."""
    if task.startswith("deepsea"):
        return {"auroc": score, "auprc": score / 2, "loss": 0.2}
    if PUBLISHED_METRIC[TASKS[task].family] == "mcc":
        return {"mcc": score, "auroc": min(0.99, 0.55 + score / 2), "loss": 0.5, "collapsed": 0.0}
    return {"mcc": 2 * score - 1.05, "auroc": score, "loss": 0.3, "collapsed": 0.0}


def history(task, backbone, last, rng, epochs=5):
    """Evaluations that rise to `last`."""
    steps = -(-(TASKS[task].rows[0] or 20000) // 8)
    return [
        {
            "epoch": epoch,
            "step": epoch * steps,
            "seconds": 60.0 * epoch,
            "train_loss": 0.7 - 0.05 * epoch,
            "dev": score_facts(task, last - 0.12 * math.exp(-epoch) + rng.normal(0, 0.002), rng),
        }
        for epoch in range(1, epochs + 1)
    ]


def ranks_of(backbone, rng):
    """`kept_ranks` and `rank_trajectory` of an adapter that ends with 6 of 12 singular values."""
    paths = [
        f"decoder.layers.{layer}.{part}"
        for layer in range(LAYERS[backbone])
        for part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "fc1", "fc2")
    ]
    pull = rng.normal(0, 1.5, len(paths)) + np.repeat(np.linspace(-2, 2, LAYERS[backbone]), 5)
    shares = np.linspace(0, 1, 9)
    ranks = [[int(np.clip(round(12 - 6 * s + s * x), 0, 12)) for x in pull] for s in shares]
    trajectory = {"steps": [int(200 * i) for i in range(9)], "paths": paths, "ranks": ranks}
    return {"kept_ranks": dict(zip(paths, ranks[-1], strict=True)), "rank_trajectory": trajectory}


def facts_of(task, backbone, method, stage, score, rng):
    """What a worker measures of a run."""
    facts = {
        "tokenization": "bbpe",
        "samples": 5 * (TASKS[task].rows[0] or 20000),
        "gpus": 1,
        "device_seconds": 300.0,
    }
    if backbone != "none":
        cost = STEP_FLOPS[backbone] * (1.5 if method == "fmft" else 1.0) * TASKS[task].length / 500
        steps = 5 * -(-(TASKS[task].rows[0] or 20000) // 8)
        facts |= {"flops_per_step": cost, "reference_flops_per_step": 1e12 * TASKS[task].length / 500}
        facts |= {"flops": cost * steps, "device_seconds": cost * steps / 2e13}
        if stage == "final" and method in ("adalora", "ars", "lingo"):
            facts |= ranks_of(backbone, rng)
    if stage == "final":
        limits = [score - 0.02, score + 0.02]
        facts["interval"] = {PUBLISHED_METRIC[TASKS[task].family]: limits}
        across = {"rows": 1000, "exact": 3, "other_label": 1, "reverse_complement": 2, "shared": 5}
        within = {
            s: {"repeated": 4, "conflicting": 1, "reverse_complement": 2} for s in ("train", "dev", "test")
        }
        pairs = ("dev in train", "test in train", "test in dev")
        facts["leaks"] = {"within": within, "across": dict.fromkeys(pairs, across), "dropped": 0}
        if task.startswith("deepsea"):
            hard = np.linspace(-0.12, 0.12, 104)
            auroc = np.clip(score + hard + rng.normal(0, 0.01, 104), 0.4, 0.99)
            names = [f"cell{i % 9}|H3K{i}me3" for i in range(104)]
            facts["test_labels"] = {"names": names, "auroc": auroc.tolist(), "auprc": (auroc / 2).tolist()}
    return facts


def record(task, backbone, method, stage, number, score, rng, **values):
    """One record; `number` is the trial in the search, the seed in the final stage."""
    study, final = f"{task}|{backbone}|{method}", stage == "final"
    adapted = backbone != "none"
    printed = PUBLISHED.parameters.get((BACKBONES.get(backbone, ""), method), "50000")
    return Record(
        id=f"{study}/final/seed-{number}" if final else f"{study}/trial-{number:04d}",
        benchmark="paper",
        study=study,
        task=task,
        family=TASKS[task].family,
        backbone=backbone,
        method=method,
        metric=TASKS[task].metric,
        stage=stage,
        trial=None if final else number,
        seed=number if final else 0,
        **{
            "status": "finished",
            "config": {
                "method": method,
                "seed": number,
                "batch_size": 8,
                "epochs": 5,
                **values.pop("config", {}),
            },
            "history": history(task, backbone, score, rng) if adapted else [],
            "dev": score_facts(task, score + 0.005, rng),
            "test": score_facts(task, score, rng) if final else None,
            "trained_parameters": int(parameter_count(printed)),
            "facts": facts_of(task, backbone, method, stage, score, rng),
            "seconds": 300.0,
            "started": "2026-01-01T00:00:00.000+00:00",
            "ended": "2026-01-01T00:05:00.000+00:00",
            "environment": ENVIRONMENT,
        }
        | values,
    )


def configuration(rng, method):
    """A drawn configuration, and how much worse than the best it is: the learning rate decides."""
    rate = float(10 ** rng.uniform(-5, -2))
    config = {"learning_rate": rate}
    if method in ("adalora", "ars", "lingo"):
        config |= {"b0": int(rng.integers(4, 17)), "p": float(rng.uniform(0, 0.3)), **FIXED}
    return config, 0.04 * (math.log10(rate) + 3.5) ** 2


def records(tasks=tuple(PAPER_DATASETS), backbones=BACKBONES, seeds=5, trials=12, noise=NOISE):
    """Every record: searches and finals, two failures and a seed that collapsed."""
    rng = np.random.default_rng(0)
    for task, backbone, method, score in studies(tasks, backbones):
        config, _ = configuration(rng, method)
        for number in range(trials):
            config, worse = configuration(rng, method)
            dev = score - worse + rng.normal(0, 0.004)
            status = "finished" if number % 3 == 0 else "stopped"
            yield record(task, backbone, method, "search", number, dev, rng, config=config, status=status)
        for seed in range(seeds):
            last = score + noise * rng.standard_normal()
            yield record(task, backbone, method, "final", seed, last, rng, config=config)


def plan_of(made, seeds=5):
    """plan.json of these records."""
    keys = dict.fromkeys((r.task, r.backbone, r.method, r.family) for r in made)
    rate = {"learning_rate": LEAVES["learning_rate"]}
    plan = []
    for task, backbone, method, _ in keys:
        space = {"leaves": LEAVES if method in ("adalora", "ars", "lingo") else rate}
        study = {"key": f"{task}|{backbone}|{method}", "task": task, "backbone": backbone, "method": method}
        plan.append(study | {"total_steps": 1000, "space": space})
    settings = {
        "suite": "paper",
        "seeds": list(range(seeds)),
        "epochs": 5,
        "batch_size": 8,
        "num_samples": 12,
    }
    return {"settings": settings | {"tokenization": "bbpe"}, "studies": plan, "notes": []}


def write_run(out, made, *, seeds=5, search=True, plan=None):
    """Write records, table and plan as a run leaves them; the plan is that of all records unless given."""
    made = list(made)
    (out / "records").mkdir(parents=True)
    for item in made:
        (out / "records" / file_name(item.id)).write_text(item.to_json())
    (out / "benchmark.json").write_text(json.dumps({"digest": "x", "config": {"suite": "paper"}}))
    (out / "plan.json").write_text(json.dumps(plan or plan_of(made, seeds)))
    if search:
        left = {"cut": [], "searcher": "tpe", "scheduler": "asha", "scope": "task", "gpu_hours": 123.4}
        (out / "search.json").write_text(
            json.dumps(left | {"wall_s": 9000.0, "samples": {"trained": 10**6, "shared": 10**5}})
        )
    return out


def write_table(out):
    """results.parquet from the records, as the run's own store makes it."""
    saved = (out / "benchmark.json").read_text()
    (out / "benchmark.json").unlink()
    (out / "records").rename(out / "kept")
    ResultStore(out, {"suite": "paper"})
    (out / "records").rmdir()
    (out / "kept").rename(out / "records")
    store = ResultStore(out, {"suite": "paper"})
    (out / "benchmark.json").write_text(saved)
    return store.out / "results.parquet"


def with_flaws(made):
    """The same run as it would really be: two failures, a collapsed seed, marks."""
    for number, item in enumerate(made):
        if number in (7, 1203):
            yield replace(
                item, status="failed", error="diverged: the loss is not finite after epoch 2", test=None
            )
        elif item.id == "EMP/H3K4me3|dnabert-2|lora/final/seed-2":
            facts = {**item.facts, "collapsed": True}
            yield replace(item, facts=facts, test={"mcc": 0.0, "auroc": 0.5, "collapsed": 1.0})
        else:
            yield item if item.task != "prom/prom_300_all" else replace(item, marks=("overlapping splits",))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    write_run(folder, with_flaws(records()))
    print(write_table(folder))
