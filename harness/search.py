"""The search: one Tuner per study (Optuna proposes, ASHA stops), several studies at a time on one pool.

Reproducibility: a study's sampler is seeded and its proposals are drawn in order. First points and start-up
draws are the same in every run. Later proposals, and ASHA's decisions, depend on which reports had arrived by
then; with one trial at a time (`max_concurrent=1`) a study repeats exactly. A trial's training depends on its
configuration alone.
"""

import logging
import os
import re
from collections.abc import Callable, Collection, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from harness.jobs import OPEN, Event, Job, Report
from harness.pool import Pool
from harness.studies import Past, StudyPlan, TrialOutcome

__all__ = ["Past", "StudyPlan", "TrialOutcome", "run_finals", "run_search"]

log = logging.getLogger(__name__)

OnReport = Callable[[Job, Report, str], None]
TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "600",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "1",
}
STOP_S = 60.0


def run_search(
    plans: Sequence[StudyPlan],
    pool: Pool,
    *,
    max_concurrent: int | None = None,
    on_report: OnReport,
    cut: Callable[[], Collection[str]] | None = None,
    scratch: Path | None = None,
) -> dict[str, list[TrialOutcome]]:
    """Search all studies; earlier ones have the first call on free slots, later ones fill what they leave.

    Args:
        max_concurrent: Trials that train at once over all studies (`None`: as many as the pool takes).
        on_report: Called here, in this thread, in order per job, with the job, its latest report and its
            status: `queued`, `started` (again after a lost worker), `running` after an evaluation, then one
            of `finished`, `stopped`, `failed`, `interrupted`. Before the first evaluation the report has
            number 0 and no metrics.
        cut: Asked again and again; the keys of studies that have used up a budget (`harness.budgets`): none of
            their trials starts any more, running ones end as `stopped` after their next evaluation, with the
            fact `cut` = `budget` in the report that `on_report` gets.
        scratch: Folder for Tune's own files; the pool's scratch folder by default.

    Returns:
        Per study key the ended trials in the order of their numbers. After Ctrl-C (`pool.interrupted`) those
        that had ended by then.
    """
    ledger = _Ledger(on_report)
    studies = _Studies(plans, pool, max_concurrent, scratch or pool.scratch / "tune")
    pool.begin(max_concurrent)
    try:
        while studies.left() and not pool.interrupted:
            studies.start_more(ledger)
            ledger.take(pool.events(0.25))
            studies.collect()
        if pool.interrupted:  # from another thread
            studies.wait(STOP_S)
    except KeyboardInterrupt:
        pool.interrupt()
        studies.wait(STOP_S)
    except BaseException:
        pool.interrupt()
        studies.wait(STOP_S)
        raise
    ledger.take(pool.events(0.0))
    return {plan.key: ledger.of_study(plan.key) for plan in plans}


def run_finals(jobs: Sequence[Job], pool: Pool, *, on_report: OnReport) -> dict[str, TrialOutcome]:
    """Train `jobs` to their ends; the outcome of each by its id. Interrupts as `run_search` does."""
    ledger = _Ledger(on_report)
    pool.begin(None)
    try:
        for job in jobs:
            pool.submit(job)
        left = {job.id for job in jobs}
        while left:
            ledger.take(pool.events(1.0))
            left -= set(ledger.ended)
    except KeyboardInterrupt:
        pool.interrupt()
        ledger.take(pool.events(0.0))
    except BaseException:
        pool.interrupt()
        raise
    return {job.id: ledger.outcomes[job.id] for job in jobs if job.id in ledger.outcomes}


class _Ledger:
    """What the driver knows of every job, from the pool's events."""

    def __init__(self, on_report: OnReport) -> None:
        self._on_report = on_report
        self._reports: dict[str, list[Report]] = {}
        self.outcomes: dict[str, TrialOutcome] = {}
        self.ended: dict[str, str] = {}

    def take(self, events: Sequence[Event]) -> None:
        for event in events:
            job, report, status = event.job, event.report, event.status
            reports = self._reports.setdefault(job.id, [])
            if report.number > (reports[-1].number if reports else 0):
                reports.append(report)
            if status not in OPEN:
                self.ended[job.id] = job.study
                self._reports.pop(job.id)
            if status in ("finished", "stopped", "failed"):
                self.outcomes[job.id] = TrialOutcome(job, status, reports, report.error)
            self._on_report(job, report, status)

    def of_study(self, key: str) -> list[TrialOutcome]:
        return [self.outcomes[name] for name in sorted(self.outcomes) if self.outcomes[name].job.study == key]

    def ended_in(self, key: str) -> int:
        return sum(study == key for study in self.ended.values())


class _Studies:
    """The Tuners' tasks: which studies wait, which run."""

    def __init__(
        self, plans: Sequence[StudyPlan], pool: Pool, max_concurrent: int | None, scratch: Path
    ) -> None:
        self._pool, self._scratch = pool, scratch
        self._at_once = max(1, min(pool.capacity, max_concurrent or pool.capacity))
        self._waiting = list(enumerate(plans))
        self._running: dict[Any, StudyPlan] = {}

    def left(self) -> bool:
        return bool(self._waiting or self._running)

    def start_more(self, ledger: _Ledger) -> None:
        """Keep more trials wanted than can train at once, so that the pool never idles at a study's end."""
        wanted = sum(self._wanted(plan, ledger) for plan in self._running.values())
        while self._waiting and wanted <= self._at_once:
            number, plan = self._waiting.pop(0)
            task = _tune.remote(plan, self._pool.handle, number, self._at_once, str(self._scratch))
            self._running[task] = plan
            wanted += self._wanted(plan, ledger)

    def collect(self) -> None:
        """Forget the Tuners that have ended; a Tuner that died is a warning, its trials are what they are."""
        ended, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        for task in ended:
            plan = self._running.pop(task)
            try:
                ray.get(task)
            except RayError as error:
                log.warning("The search of %s ended early: %s", plan.key, str(error).strip().splitlines()[-1])

    def wait(self, seconds: float) -> None:
        """After an interrupt: give the Tuners time to end, then end them."""
        self._waiting.clear()
        if not self._running:
            return
        _, late = ray.wait(list(self._running), num_returns=len(self._running), timeout=seconds)
        for task in late:  # and only those: to cancel a task that just ended can abort the driver
            ray.cancel(task, force=True)

    def _wanted(self, plan: StudyPlan, ledger: _Ledger) -> int:
        return min(self._at_once, plan.num_samples - ledger.ended_in(plan.key))


@ray.remote(num_cpus=0, max_retries=0)
def _tune(plan: StudyPlan, source: Any, priority: int, at_once: int, scratch: str) -> None:
    """One study's Tuner, in a process of its own (Tuners in threads of one process disturb each other)."""
    os.environ.update(TUNE_SETTINGS)
    from ray import tune

    from harness.client import METRIC, Client, StopWhenInterrupted

    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    client = tune.with_parameters(
        Client, source=source, metric=plan.metric, mode=plan.mode, priority=priority
    )
    tuner = tune.Tuner(
        tune.with_resources(client, {"CPU": 0.001}),
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode=plan.mode,
            search_alg=_searcher(plan, METRIC),
            scheduler=_scheduler(plan),
            num_samples=plan.num_samples,
            max_concurrent_trials=at_once,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=re.sub(r"[^\w.-]+", "_", plan.key),
            storage_path=scratch,
            stop=StopWhenInterrupted(),
            failure_config=tune.FailureConfig(max_failures=2),
            verbose=0,
        ),
    )
    with Path(os.devnull).open("w") as silence, redirect_stdout(silence):  # verbose=0 still prints a header
        tuner.fit()


def _scheduler(plan: StudyPlan) -> Any:
    from ray.tune.schedulers import ASHAScheduler

    return ASHAScheduler(
        time_attr="epoch", max_t=plan.epochs, grace_period=1, reduction_factor=plan.reduction_factor
    )


def _searcher(plan: StudyPlan, metric: str) -> Any:
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return OptunaSearch(
        space=partial(propose, plan),
        metric=metric,
        mode=plan.mode,
        points_to_evaluate=[dict(point) for point in plan.first_points[: plan.num_samples]],
        sampler=optuna.samplers.TPESampler(seed=plan.seed, n_startup_trials=startup_trials(plan.num_samples)),
        study_name=plan.key,
    )


def startup_trials(num_samples: int) -> int:
    """Random draws before TPE takes over: Optuna's ten, fewer where that would be most of a short search."""
    return max(3, min(10, num_samples // 3))


def propose(plan: StudyPlan, trial: Any) -> dict[str, Any]:
    """Draw a configuration through an Optuna trial and make it the job `<study>/trial-<number>`."""
    config = {"seed": plan.seed, **plan.space.fixed, **plan.fixed, "method": plan.method}
    config |= plan.space.suggest(trial)
    job = Job(
        id=f"{plan.key}/trial-{trial.number:04d}",
        study=plan.key,
        stage="search",
        backbone=plan.backbone,
        data=plan.data,
        config=config,
    )
    return {"job": asdict(job)}
