"""A Tune trial as a lightweight client of the pool: it submits a job for each study of its search group and waits.

Clients are threads of the Tuner's process (`harness.search.seats`), with another version of Ray processes of their own:
this module has only light imports (no torch, no optuna, no search space).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError
from ray.tune import Stopper, Trainable

from harness.runs.jobs import OPEN, Job, Report
from lingo.metrics import LOWER_IS_BETTER

WAIT_S = 10.0
METRIC, EPOCH, STATE = "objective", "epoch", "state"
PARAMETERS = "parameters"
"""Trained parameters, in results of trials whose workers have counted them."""
UNDEFINED, NONE = -1.0, -1e6
"""What an undefined evaluation counts as, below any correlation, accuracy or area; and the result of no evaluation."""


def objective(metric: str, value: float) -> float:
    """A score as a number of which more is better, from -1 on.

    An error e, which has no upper limit, counts as -e / (1 + e): order is all that searchers and schedulers use of it.
    """
    if not math.isfinite(value):
        return UNDEFINED
    return -value / (1 + value) if metric in LOWER_IS_BETTER else value


@dataclass
class _Member:
    """The part of a trial that belongs to one study: `values` by epoch, trained parameters, and the final status of its
    job."""

    job: Job
    metric: str
    values: dict[float, float] = field(default_factory=dict)
    number: int = 0
    ended: str | None = None
    parameters: int | None = None

    def take(self, reports: Sequence[Report], status: str) -> None:
        for report in reports:
            self.number = report.number
            self.parameters = report.facts.get("trained_parameters", self.parameters)
            if report.status != "failed":
                self.values[report.epoch] = objective(self.metric, report.dev.get(self.metric, math.nan))
        if status not in OPEN:
            self.ended = status


class Client(Trainable):
    """One trial. With `reuse_actors`, one client serves many trials, one after the other.

    Config: `group` and `number` identify the trial; `jobs` holds the fields of a `harness.runs.jobs.Job` for each study
    of the group, `metrics` theirs; `seen` the evaluations of studies whose jobs had ended before;
    `order` counts the proposals, for clients do not start in the order in which Tune asks for them; after the
    epochs of `sync_epochs` the jobs wait for each other where they do not all have a slot.

    A result is the mean of the studies' metrics after the first unreported epoch that all have evaluated. Its `state`
    is `running`, `finished` after the last one, or, without an evaluation, the
    final status of a job: `failed`, `interrupted`, or externally `stopped`.
    """

    _members: list[_Member]
    _told: float
    _place: dict[str, Any]
    _submitted: bool

    def setup(self, config: dict[str, Any], source: Any) -> None:  # type: ignore[override]
        self._source = source
        self._begin(config)

    def step(self) -> dict[str, Any]:
        """Wait for the next evaluation of all jobs. The end of one that did not finish ends the trial."""
        if not self._submitted:
            self._submit()
        try:
            while (result := self._result()) is None:
                self._wait()
        except RayError:
            self._submitted = False  # Tune tries again with another client, which then owns the jobs
            raise
        return result

    def get_auto_filled_metrics(self, *_: Any, **__: Any) -> dict[str, Any]:
        """Nothing: Tune would keep statistics of a dozen automatic fields for every trial."""
        return {}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Serve the next trial: `cleanup` runs once per client, so the last trial is released here."""
        self._release()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        if released := self._release():
            ray.get(released)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save: the pool keeps training, and a restarted client follows the same job from its start."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """See `save_checkpoint`."""

    def _begin(self, config: dict[str, Any]) -> None:
        """Accept a trial. Its jobs are submitted in the first `step`: Tune drops a client that has started but not
        stepped if an older one becomes free for the trial, and one must not release the other's jobs."""
        self._told, self._submitted = 0, False
        self._place = {
            "priority": config["order"],
            "trial": f"{config['group']}/{config['number']}",
            "sync_epochs": config["sync_epochs"],
        }
        self._questions: dict[Any, _Member] = {}
        self._members = []
        for job, metric in zip(config["jobs"], config["metrics"], strict=True):
            member = _Member(Job(**job), metric)
            self._members.append(member)
            if member.job.study in config["seen"]:
                pairs = config["seen"][member.job.study]
                member.values = {epoch: objective(metric, value) for epoch, value in pairs}
                member.ended = "finished"

    def _submit(self) -> None:
        self._submitted = True
        for member in self._members:  # the source processes the calls of a client in order: no need to wait
            if member.ended is None:
                self._source.submit.remote(member.job, **self._place)

    def _release(self) -> list[Any]:
        if not self._submitted:
            return []
        return [self._source.release.remote(member.job.id) for member in self._members]

    def _wait(self) -> None:
        """Wait until a request is answered, with one pending request for each job that has not ended."""
        asked = {member.job.id for member in self._questions.values()}
        for member in self._members:
            if member.ended is None and member.job.id not in asked:
                question = self._source.follow.remote(member.job.id, member.number, WAIT_S)
                self._questions[question] = member
        ready, _ = ray.wait(list(self._questions), num_returns=1)
        for question in ready:
            member, (reports, status) = self._questions.pop(question), ray.get(question)
            if status == "unknown":  # the source was restarted
                self._source.submit.remote(member.job, **self._place)
            else:
                member.take(reports, status)

    def _result(self) -> dict[str, Any] | None:
        """The next result; `None` if not yet available."""
        ends = [member.ended for member in self._members]
        for state in ("interrupted", "failed"):
            if state in ends:
                return {METRIC: NONE, EPOCH: 0, STATE: state, "done": True}
        common = set.intersection(*(set(member.values) for member in self._members))
        ahead = sorted(epoch for epoch in common if epoch > self._told)
        last = len(ahead) <= 1
        if not ahead:
            if "stopped" not in ends and None in ends:
                return None
            ended = "stopped" if "stopped" in ends else "finished"
            return {METRIC: NONE, EPOCH: 0, STATE: ended, "done": True}
        self._told = ahead[0]
        mean = math.fsum(member.values[self._told] for member in self._members) / len(self._members)
        done = last and all(end == "finished" for end in ends)
        counts = [member.parameters for member in self._members if member.parameters is not None]
        counted = {PARAMETERS: sum(counts)} if len(counts) == len(self._members) else {}
        state = "finished" if done else "running"
        return {METRIC: mean, EPOCH: self._told, STATE: state, "done": done, **counted}


class StopWhenInterrupted(Stopper):
    """Ends the whole search once a client reports that the pool was interrupted."""

    def __init__(self) -> None:
        self._told = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self._told = self._told or result.get(STATE) == "interrupted"
        return self._told

    def stop_all(self) -> bool:
        return self._told
