"""What travels between the search, the pool and its workers: jobs out, reports back. Plain data only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Stage = Literal["search", "final"]
Status = Literal["queued", "started", "running", "finished", "failed", "stopped", "interrupted", "unknown"]
OPEN = frozenset({"queued", "started", "running"})
"""The statuses of a job that has not ended. `unknown`: the source has lost it; it is to be submitted again."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One trial to train.

    Attributes:
        id: Name that may be submitted again without harm: `<study>/trial-0007` or `<study>/final/seed-3`.
        study: Key of the study, `task|backbone|method`.
        stage: `search` jobs never see the test split; `final` jobs read it once, after their last epoch.
        backbone: Backbone to load: a known name or a local folder in the hub's layout, or one of these with fresh
            weights (`lingo.fresh_names.fresh_name`).
        data: Folder of the prepared task (`harness.data.prepared`).
        config: The fields of `lingo.trial.TrialConfig`.
        adapter: Folder for the trained adapter of a final job; `None` keeps none.
        checkpoints: Folder in which the job keeps its slot's state to go on from; `None` keeps none.
        patience: Evaluations none of which is better than the best before, after which training stops (final
            jobs); the best evaluation's weights are tested, see `harness.workers.best_epoch`. `None` trains all epochs,
            and the last evaluation's weights are tested.
        metric: The dev metric by which the best evaluation is chosen.
        predictions: Folder for the test predictions of a final job, one parquet file each; `None` keeps none.
        siblings: Whether other trials may come that differ in p, bT and ΔT alone: the state before the first
            allocation is then kept in `<checkpoints>/prefixes/` for them.
        alone: Whether it is trained without neighbours, on one thread and with deterministic kernels, so that its
            numbers follow from its configuration alone, to the bit, on one kind of machine.
        rungs: Epochs after which it waits until the search says that it goes on (`JobSource.proceed`); only of
            jobs that are trained alone.
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
    rungs: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "rungs", tuple(self.rungs))  # JSON has lists


@dataclass(frozen=True, kw_only=True)
class Report:
    """One piece of news of a job: an evaluation at an epoch's end, or its end.

    Attributes:
        job: `Job.id`.
        number: 1, 2, … within the job; a repeated number is a repeated report.
        status: `running` after an evaluation with more to come, `finished` after the last, `failed`; `returned`
            when the engine has dropped the job, which another may take up (no memory for it): no evaluation.
        epoch, step, total_steps: Position in training, all from 1.
        train_loss: Mean training loss since the last report, without the orthogonality term.
        dev: Dev-split metrics, `loss` among them (NaN where undefined).
        test: Test-split metrics; only on the last report of a `final` job.
        seconds: Wall time since the job's admission.
        facts: Measured facts: trained_parameters, total_parameters, kept_ranks, samples, digest …
        error: One line, for `failed`.
        hopeless: Of a failure: whether another attempt would fail alike (a wrong configuration).
    """

    job: str
    number: int
    status: Literal["running", "finished", "failed", "returned"]
    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    train_loss: float = float("nan")
    dev: dict[str, float] = field(default_factory=dict)
    test: dict[str, float] | None = None
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    hopeless: bool = False


@dataclass(frozen=True)
class Event:
    """One change of a job.

    Attributes:
        number: 1, 2, … of all events of the job source.
        report: The job's latest: number 0, empty, before the first evaluation.
        status: `queued`, `started` (again after a lost worker), `running` after an evaluation, or how it ended.
        reports: All of the job so far, each once; at the driver, see `harness.pool.job_log`.
    """

    number: int
    job: Job
    report: Report
    status: Status
    reports: Sequence[Report] = ()


@dataclass(frozen=True)
class StatusUpdate:
    """What a worker group tells the job source.

    Attributes:
        group, incarnation: Name of the group, and of its present incarnation (another after every restart).
        reports: Since the last exchange.
        held: Ids of the jobs that it trains.
        refused: Ids of the jobs that it was given and cannot take now.
        capacity: How many more jobs it could hold.
        idle: Seconds that it was without a job before it got those that it holds, told once.
        waiting: Those of the held jobs that wait at a rung, and its epoch.
    """

    group: str
    incarnation: str
    reports: Sequence[Report]
    held: Sequence[str]
    refused: Sequence[str]
    capacity: int
    idle: float = 0.0
    waiting: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Commands:
    """What a worker group must do next, on every rank and in this order: end; or release, then admit.

    `register`: the source does not know it (any more) and asks it to register again, with the jobs that it holds.
    `leave`: a machine of the group is about to be taken away: save, hand the jobs back, end.
    `proceed`: jobs that need not wait at their rung any longer.
    """

    release: Sequence[str] = ()
    admit: Sequence[Job] = ()
    close: bool = False
    register: bool = False
    leave: bool = False
    proceed: Sequence[str] = ()
