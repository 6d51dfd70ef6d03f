"""What a trial costs on the resident pool, against a Tune trial with its own Ray Train run; and memory.

    python tests/benchmarks/pool.py [--trials 30] [--peer-trials 4] [--memory-trials 100] [--json FILE]

Wall per trial is the wall time of the whole search divided by its trials: from the call of `run_search` (of
`Tuner.fit` for the peer) to its return, so it includes the start of the Tuner and of its trial processes. The
start of Ray is in neither; the start of the worker group happens once, before, and has a row of its own.
Trials do nothing but report one score; both sides run one trial at a time, and no scheduler stops any.

Memory is that of real trials: adaptive rank sampling on the quickstart's tiny backbone and generated data.
"""

import argparse
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import ray
from rich.console import Console

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from harness.config.search_space import Leaf, SearchSpace  # noqa: E402
from harness.pool.local_ray import local_ray  # noqa: E402
from harness.pool.pool import Pool  # noqa: E402
from harness.runs.jobs import Event  # noqa: E402
from harness.search.driver import run_search  # noqa: E402
from harness.search.study import SearchStudy  # noqa: E402
from harness.workers.packed_engine import make_engine  # noqa: E402
from tests.benchmarks.search_rows import Row, tell  # noqa: E402
from tests.support import toy_engine  # noqa: E402
from tests.support.studies import search_study  # noqa: E402

CPUS = 2


def toy_study(trials: int) -> SearchStudy:
    """Trials that do nothing."""
    space = SearchSpace(method="lora", leaves={"quality": Leaf(type="float", low=0, high=1)})
    return search_study("overhead|none|lora", space, trials, epochs=1)


def real_study(folder: Path, trials: int) -> SearchStudy:
    """Trials of four steps on a tiny backbone."""
    from harness.data.prepared import prepare
    from harness.data.quickstart import make_backbone, make_data
    from harness.data.tasks import SUITES, TASKS
    from lingo.backbones import load_backbone

    source = str(make_backbone(folder / "model"))
    backbone = load_backbone(source)
    data = prepare(
        TASKS[SUITES["quickstart"][0]],
        make_data(folder / "csv"),
        folder / "data",
        tokenizer=backbone.tokenizer,
        pad_id=backbone.pad_id,
        limit=32,
    )
    rate = Leaf(type="float", low=1e-5, high=1e-2, log=True)
    space = SearchSpace(method="ars", leaves={"learning_rate": rate}, fixed={"delta_T": 1})
    return search_study("memory|toy|ars", space, trials, epochs=1, source=source, data=str(data.folder))


def peer_trial(config: dict[str, Any]) -> None:
    """A Tune function trial that trains through its own TorchTrainer, as Ray's guide shows it."""
    from ray import tune
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    def train(loop: dict[str, Any]) -> None:
        ray.train.report({"objective": loop["quality"]})

    trainer = TorchTrainer(
        train,
        train_loop_config={"quality": config["quality"]},
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(
            storage_path=config["scratch"], name=f"train-{tune.get_context().get_trial_id()}"
        ),
    )
    metrics = trainer.fit().metrics
    tune.report({"objective": metrics["objective"] if metrics else 0.0})


def peer_seconds(trials: int, scratch: str) -> float:
    """Seconds a trial of the peer."""
    from ray import tune

    tuner = tune.Tuner(
        tune.with_resources(peer_trial, {"CPU": 0.5}),
        param_space={"quality": tune.uniform(0, 1), "scratch": scratch},
        tune_config=tune.TuneConfig(
            metric="objective", mode="max", num_samples=trials, max_concurrent_trials=1
        ),
        run_config=tune.RunConfig(storage_path=scratch, verbose=0),
    )
    start = time.perf_counter()
    with Path(os.devnull).open("w") as silence, redirect_stdout(silence):
        results = tuner.fit()
    seconds = time.perf_counter() - start
    assert len(results) == trials and not results.errors, results.errors
    return seconds / trials


@contextmanager
def one_group(make_engine: Callable[[int, int], Any]) -> Iterator[tuple[Pool, float]]:
    """A pool of one group of one worker, and the seconds until it served."""
    start = time.perf_counter()
    with Pool.start(make_engine) as pool:
        yield pool, time.perf_counter() - start


def pool_seconds(pool: Pool, trials: int) -> tuple[float, float]:
    """Seconds a trial: of the whole search, and from the first trial's arrival to the last one's end."""
    times: list[float] = []
    start = time.perf_counter()
    found = run_search([toy_study(trials)], pool, on_event=lambda *_: times.append(time.perf_counter()))
    whole = time.perf_counter() - start
    assert [outcome.status for outcome in found["overhead|none|lora"]] == ["finished"] * trials
    return whole / trials, (times[-1] - times[0]) / trials


def memory_rows(pool: Pool, plan: SearchStudy, first: int = 10) -> list[Row]:
    """Resident set of the driver and of the worker at trial `first` and at the last trial."""
    trials = plan.benchmark.num_samples
    (worker,) = pool.state()["workers"].values()
    seen: dict[str, list[float]] = {"driver": [], "worker": []}
    ended = 0

    def on_event(event: Event) -> None:
        nonlocal ended
        status = event.status
        if status != "finished":
            return
        ended += 1
        if ended in (first, trials):
            gc.collect()
            seen["driver"].append(resident(os.getpid()))
            seen["worker"].append(resident(worker))

    run_search([plan], pool, on_event=on_event)
    rows = []
    for who, (before, after) in seen.items():
        growth = 100 * (after / before - 1)
        rows += [
            Row(f"{who}: resident at trial {first}", before, "MiB"),
            Row(f"{who}: resident at trial {trials}", after, "MiB"),
            Row(f"{who}: growth", growth, "%", "<= 5", growth <= 5),
        ]
    return rows


def resident(pid: int) -> float:
    """Resident set in MiB."""
    return float(psutil.Process(pid).memory_info().rss) / 2**20


def measure(trials: int, peer_trials: int, memory_trials: int, say: Callable[[str], None]) -> list[Row]:
    """All rows, both sides on the same Ray instance."""
    ray.cloudpickle.register_pickle_by_value(toy_engine)
    with tempfile.TemporaryDirectory() as scratch, local_ray(CPUS):
        say(f"{peer_trials} trials that start their own TorchTrainer …")
        peer = peer_seconds(peer_trials, scratch)
        say("one worker group …")
        with one_group(partial(toy_engine.make, 1)) as (pool, start_up):
            say(f"{trials} trials on it …")
            whole, span = pool_seconds(pool, trials)
        say(f"{memory_trials} real trials for memory …")
        plan = real_study(Path(scratch), memory_trials)
        with one_group(make_engine) as (pool, _):
            memory = memory_rows(pool, plan)
    return [
        Row("peer: wall per trial", peer, "s"),
        Row("pool: start-up of the group, once", start_up, "s"),
        Row("pool: wall per trial", whole, "s", "< 0.3", whole < 0.3),
        Row("pool: wall per trial without the Tuner's start", span, "s"),
        Row("peer / pool: wall per trial", peer / whole, "x", ">= 30", peer / whole >= 30),
        Row("peer / pool: with the group's start-up", peer / (whole + start_up / trials), "x"),
        *memory,
    ]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--peer-trials", type=int, default=4)
    parser.add_argument("--memory-trials", type=int, default=100)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    say = Console(stderr=True).print
    rows = measure(options.trials, options.peer_trials, options.memory_trials, say)
    tell(rows, options.json)


if __name__ == "__main__":
    main()
