"""Studies for tests that train nothing or train toys, and a recorder of their events."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.config.benchmark import Benchmark
from harness.config.search_space import SearchSpace
from harness.config.search_space_file import read_space
from harness.config.studies import PreparedStudy
from harness.data.tasks import TASKS, TaskRow
from harness.pipeline.recorder import Recorder
from harness.pool.job_log import JobLog
from harness.runs.jobs import Event
from harness.search.study import SearchStudy


def prepared_study(tmp_path, method="lora"):
    """A study of `mouse/2` with a toy backbone, as if its data were prepared."""
    return PreparedStudy(
        task=TASKS["mouse/2"],
        backbone="toy",
        source="/models/toy",
        method=method,
        train_rows=80,
        total_steps=30,
        space=read_space(method).for_task("mouse/2"),
        data=tmp_path,
        data_digest="d" * 64,
        backbone_digest="b" * 64,
        marks=["smoke"],
        tokens=10,
        facts={"leaks": {"dropped": 3}, "samples": 1},
    )


def recording(store, studies, benchmark="custom", environment=None, **watching):
    """Takes a job, its report and its status, and tells a recorder what the driver's log finds new."""
    recorder = Recorder(store, studies, benchmark=benchmark, environment=environment or {}, **watching)
    log = JobLog()

    def take(job, report, status):
        for event in log.take([Event(0, job, report, status)]):
            recorder(event)

    return take


def search_study(
    key: str,
    space: SearchSpace,
    num_samples: int,
    *,
    first_points: Sequence[Mapping[str, Any]] | None = None,
    fixed: Mapping[str, Any] | None = None,
    source: str = "none",
    data: str = "nowhere",
    **more: Any,
) -> SearchStudy:
    """A study of any key `task|backbone|method`, search space and number of trials.

    Args:
        first_points, fixed: Those of the search space; settings that no method has go here as well.
        source: What workers load.
        more: Settings of the benchmark, and further fields of `SearchStudy`.
    """
    task, backbone, _ = key.split("|")
    settings = {name: more.pop(name) for name in sorted(more.keys() & Benchmark.model_fields.keys())}
    given = {"suite": "toy", "tasks": (task,), "models": (backbone,), "num_samples": num_samples, **settings}
    points = space.first_points if first_points is None else tuple(first_points)
    return SearchStudy(
        task=TaskRow(name=task, family="toy", num_labels=2, length=100, domain=""),
        backbone=backbone,
        source=source,
        method=space.method,
        train_rows=1,
        total_steps=100,
        space=replace(space, fixed={**space.fixed, **(fixed or {})}, first_points=points),
        data=Path(data),
        data_digest="",
        backbone_digest="",
        marks=(),
        tokens=1,
        benchmark=Benchmark.model_construct(**given),
        **more,
    )
