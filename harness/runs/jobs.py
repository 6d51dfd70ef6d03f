"""Messages between search, pool and workers: jobs and reports, as plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Stage = Literal["search", "final"]
Status = Literal["queued", "started", "running", "finished", "failed", "stopped", "interrupted", "unknown"]
OPEN = frozenset({"queued", "started", "running"})
"""The statuses of a job that has not ended. `unknown`: the job source has lost it, and it must be resubmitted."""

LONG_FACTS = frozenset({"kept_ranks", "rank_trajectory", "train_losses"})
"""Facts that only the latest report of a job keeps."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One trial to train.

    Attributes:
        id: Unique name; resubmitting it is harmless: `<study>/trial-0007` or `<study>/final/seed-3`.
        study: Key of the study, `task|backbone|method`.
        stage: `search` jobs never see the test split; `final` jobs read it once, after their last epoch.
        backbone: Backbone to load: a known name or a local folder in the hub's layout, or one of these with fresh
            weights (`lingo.fresh_names.fresh_name`).
        data: Folder of the prepared task (`harness.data.prepared`).
        config: The fields of `lingo.trial.TrialConfig`.
        adapter: Folder for the trained adapter of a final job; `None` keeps none.
        checkpoints: Folder of the job's checkpoints; `None` for none.
        patience: Number of evaluations without improvement after which a final job stops; the weights of the best
            evaluation are tested, see `harness.workers.best_epoch`. `None` trains all epochs and tests the last
            weights.
        metric: The dev metric by which the best evaluation is chosen.
        predictions: Folder for the test predictions of a final job, one parquet file each; `None` keeps none.
        siblings: Whether trials that differ only in p, bT and ΔT may follow: the state before the first allocation is
            then kept for them in `<checkpoints>/prefixes/`.
        alone: Whether it is trained alone, on one thread and with deterministic kernels, so that its results depend on
            its configuration only, bit by bit, on one type of machine.
        rungs: Epochs after which it waits for the search's decision (`JobSource.proceed`); only for jobs that are
            trained alone.
        evaluations: Evaluations in an epoch, see `harness.runs.evaluations`.
        asked_by: `search`, or `user` of a trial that was added.
        parent: Id of a job of the same study from whose checkpoint it may start, where both share the training up to
            there; `None` for none.
    """

    id: str
    study: str
    stage: Stage
    backbone: str
    data: str
    config: dict[str, Any]
    adapter: str | None = None
    checkpoints: str | None = None
    patience: int | None = None
    metric: str = "loss"
    predictions: str | None = None
    siblings: bool = False
    alone: bool = False
    rungs: tuple[float, ...] = ()
    evaluations: int = 1
    asked_by: str = "search"
    parent: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "rungs", tuple(self.rungs))  # JSON has lists


@dataclass(frozen=True, kw_only=True)
class Report:
    """A message about a job: an evaluation at the end of an epoch or of a part of it, or its end.

    Attributes:
        job: `Job.id`.
        number: 1, 2, … within the job; a repeated number is a repeated report.
        status: `running` after an evaluation with more to come, `finished` after the last, `failed`; `returned` if the
            engine has dropped the job for lack of memory, so that another one may take it: no evaluation.
        epoch, step, total_steps: Position in training, all from 1; within an epoch `epoch` is a fraction.
        train_loss: Mean training loss since the last report, without the orthogonality term.
        dev: Dev-split metrics, `loss` among them (NaN where undefined).
        test: Test-split metrics; only in the last report of a `final` job.
        seconds: Wall time since the job's admission.
        facts: Measured facts: trained_parameters, total_parameters, kept_ranks, samples, digest …
        error: One line, for `failed`.
        hopeless: Of a failure: whether a retry would fail as well (a wrong configuration).
    """

    job: str
    number: int
    status: Literal["running", "finished", "failed", "returned"]
    epoch: float = 0
    step: int = 0
    total_steps: int = 0
    train_loss: float = float("nan")
    dev: dict[str, float] = field(default_factory=dict)
    test: dict[str, float] | None = None
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    hopeless: bool = False

    def brief(self) -> "Report":
        """Without the long facts, which the next report has anew: a job may have thousands of evaluations."""
        return replace(
            self, facts={name: fact for name, fact in self.facts.items() if name not in LONG_FACTS}
        )


@dataclass(frozen=True)
class Event:
    """One change of a job.

    Attributes:
        number: 1, 2, … of all events of the job source.
        report: The job's latest report: number 0 and empty before the first evaluation.
        status: `queued`, `started` (again after a lost worker), `running` after an evaluation, or how it ended.
        reports: All reports of the job so far, each once; set by the driver, see `harness.pool.job_log`.
    """

    number: int
    job: Job
    report: Report
    status: Status
    reports: Sequence[Report] = ()


@dataclass(frozen=True)
class StatusUpdate:
    """Message of a worker group to the job source.

    Attributes:
        group, incarnation: Name of the group, and of its present incarnation, which changes with every restart.
        reports: Since the last exchange.
        held: Ids of the jobs in training.
        refused: Ids of assigned jobs that it cannot take now.
        capacity: Number of further jobs that it could take.
        idle: Seconds without a job before the present ones, reported once.
        waiting: Held jobs that wait at a rung, with its epoch.
    """

    group: str
    incarnation: str
    reports: Sequence[Report]
    held: Sequence[str]
    refused: Sequence[str]
    capacity: int
    idle: float = 0.0
    waiting: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Commands:
    """Commands for a worker group, executed on every rank in this order: end; or release, then admit.

    `register`: the source does not know the group (any more) and asks it to register again, with the jobs that it
        holds.
    `leave`: a machine of the group will soon be terminated: save, return the jobs, end.
    `proceed`: jobs that continue after their rung.
    """

    release: Sequence[str] = ()
    admit: Sequence[Job] = ()
    close: bool = False
    register: bool = False
    leave: bool = False
    proceed: Sequence[str] = ()
