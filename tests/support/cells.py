"""A study with its prepared data, and a recorder of its events, for tests that train nothing."""

from harness.config.search_space_file import read_space
from harness.config.studies import PreparedStudy, Study
from harness.data.tasks import TASKS
from harness.pipeline.recorder import Recorder
from harness.pool.job_log import JobLog
from harness.runs.jobs import Event


def cell(tmp_path, method="lora"):
    study = Study(
        task=TASKS["mouse/2"],
        backbone="toy",
        source="/models/toy",
        method=method,
        train_rows=80,
        total_steps=30,
        space=read_space(method).for_task("mouse/2"),
    )
    return PreparedStudy(
        study=study,
        data=tmp_path,
        data_digest="d" * 64,
        backbone_digest="b" * 64,
        marks=["smoke"],
        tokens=10,
        source="/models/toy",
        facts={"leaks": {"dropped": 3}, "samples": 1},
    )


def recording(store, cells, benchmark="custom", environment=None, **watching):
    """Takes a job, its report and its status, and tells a recorder what the driver's log finds new."""
    recorder = Recorder(store, cells, benchmark=benchmark, environment=environment or {}, **watching)
    log = JobLog()

    def take(job, report, status):
        for event in log.take([Event(0, job, report, status)]):
            recorder(event)

    return take
