"""Budgets of the search in time, GPU-hours and cost, and which studies have used theirs."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from harness.runs.jobs import OPEN, Job, Report


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a budget; `None` for no limit.

    Attributes:
        seconds: Wall time.
        gpu_hours: GPUs times hours.
        cost: Cost, in the currency of the price.
    """

    seconds: float | None = None
    gpu_hours: float | None = None
    cost: float | None = None

    def passed(self, spent: "Spent", price_per_hour: float) -> str | None:
        """Which limit is reached, in words; `None` if none is."""
        if self.seconds is not None and spent.seconds >= self.seconds:
            return f"time budget of {_span(self.seconds)}"
        if self.gpu_hours is not None and spent.gpu_seconds / 3600 >= self.gpu_hours:
            return f"budget of {self.gpu_hours:g} GPU-hours"
        if self.cost is not None and spent.seconds_paid / 3600 * price_per_hour >= self.cost:
            return f"cost budget of {self.cost:g}"
        return None


@dataclass
class Spent:
    """Usage: wall seconds, GPU-seconds, and paid seconds of all machines."""

    seconds: float = 0.0
    gpu_seconds: float = 0.0
    seconds_paid: float = 0.0


@dataclass
class _Running:
    study: str
    since: float
    known: float = 0.0
    gpus: float = 0.0


@dataclass(kw_only=True)
class Budgets:
    """Tracks the usage of studies from the pool's events, and determines which must end.

    A study's time is the time in which at least one of its trials trains. GPU-seconds are a job's share of its worker
    group's time (the fact `device_seconds` of its reports, estimated since the last one) times the group's GPUs. The
    total cost is `price_per_hour` from the first event on; a study's cost is its share of the groups.

    Attributes:
        overall, per_study: The limits.
        price_per_hour: Price of all machines per hour.
        groups, gpus_per_group: Worker groups of the pool, and GPUs of each.
        before: Usage of earlier calls of the same benchmark, overall and by study key; time is not included.
        clock: Seconds, monotonic.
    """

    overall: Limits = field(default_factory=Limits)
    per_study: Limits = field(default_factory=Limits)
    price_per_hour: float = 0.0
    groups: int = 1
    gpus_per_group: float = 0.0
    before: Spent = field(default_factory=Spent)
    before_of: Mapping[str, Spent] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._started: float | None = None
        self._running: dict[str, _Running] = {}
        self._active_since: dict[str, float] = {}
        self._active: dict[str, float] = {}
        self._device: dict[str, float] = {}
        self._gpu: dict[str, float] = {}
        self._studies: set[str] = set()
        self._known: dict[str, float] = {}  # measured by open jobs, including those that wait to continue
        self._told: dict[str, str] = {}

    def update(self, job: Job, report: Report, status: str) -> None:
        """Process an event of the pool; a watcher of the recorder."""
        now = self.clock()
        self._started = now if self._started is None else self._started
        self._studies.add(job.study)
        if status == "started":
            self._leave(job.id, now)
            known = self._known.get(job.id, 0.0)
            self._running[job.id] = _Running(job.study, now, gpus=self.gpus_per_group, known=known)
            self._active_since.setdefault(job.study, now)
        elif job.id in self._running:
            self._measured(self._running[job.id], report, now)
            self._known[job.id] = self._running[job.id].known
            if status not in OPEN or status == "queued":
                self._leave(job.id, now)
            if status not in OPEN:
                self._known.pop(job.id)

    def spent(self, study: str | None = None) -> Spent:
        """Usage so far, overall or of one study."""
        now = self.clock()
        names = self._studies if study is None else {study}
        device = {name: self._device.get(name, 0.0) for name in names}
        gpu = {name: self._gpu.get(name, 0.0) for name in names}
        for running in self._running.values():
            if running.study in names:
                extra = self._estimate(running, now)
                device[running.study] += extra
                gpu[running.study] += extra * running.gpus
        before = self.before if study is None else self.before_of.get(study, Spent())
        seconds = self._wall(now) if study is None else self._active_time(study, now)
        paid = self._wall(now) if study is None else sum(device.values()) / max(1, self.groups)
        return Spent(seconds, before.gpu_seconds + sum(gpu.values()), before.seconds_paid + paid)

    def cost(self, study: str | None = None) -> float:
        """Cost so far."""
        return self.spent(study).seconds_paid / 3600 * self.price_per_hour

    def cut(self, studies: Iterable[str] = ()) -> dict[str, str]:
        """The studies that must end, with the reason; `studies` names those that have not had an event yet.
        A study that was cut stays cut."""
        whole = self.overall.passed(self.spent(), self.price_per_hour)
        for name in self._studies | set(studies):
            reason = f"{whole} of the benchmark" if whole else None
            if reason is None and name in self._studies:
                own = self.per_study.passed(self.spent(name), self.price_per_hour)
                reason = f"{own} of the study" if own else None
            if reason is not None:
                self._told.setdefault(name, reason)
        return dict(self._told)

    def _wall(self, now: float) -> float:
        return 0.0 if self._started is None else now - self._started

    def _active_time(self, study: str, now: float) -> float:
        since = self._active_since.get(study)
        return self._active.get(study, 0.0) + (now - since if since is not None else 0.0)

    def _estimate(self, running: _Running, now: float) -> float:
        share = min(1.0, self.groups / max(1, len(self._running)))
        return (now - running.since) * share

    def _measured(self, running: _Running, report: Report, now: float) -> None:
        """Add what a report measured, or the estimate since the last one if it measured nothing."""
        measured = report.facts.get("device_seconds")
        if measured is None:
            extra = self._estimate(running, now)
        else:  # less than before: the job has restarted
            extra = float(measured) - (running.known if float(measured) >= running.known else 0.0)
        running.gpus = float(report.facts.get("gpus", running.gpus))
        running.known = running.known + extra if measured is None else float(measured)
        running.since = now
        self._device[running.study] = self._device.get(running.study, 0.0) + extra
        self._gpu[running.study] = self._gpu.get(running.study, 0.0) + extra * running.gpus

    def _leave(self, job_id: str, now: float) -> None:
        running = self._running.pop(job_id, None)
        if running is None:
            return
        if not any(other.study == running.study for other in self._running.values()):
            since = self._active_since.pop(running.study)
            self._active[running.study] = self._active.get(running.study, 0.0) + now - since


def _span(seconds: float) -> str:
    """A duration in words: `45 s`, `90 min`, `12 h`."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"
