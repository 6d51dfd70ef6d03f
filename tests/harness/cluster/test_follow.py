"""The view of a job on a cluster: progress as lines, the table from them, and a connection that breaks."""

import io
import json
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from harness.cluster import follow as following
from harness.cluster.finish import TeardownOptions
from harness.cluster.follow import Screen, board_of, plain
from harness.cluster.jobs_api import Ending, JobLost, Jobs
from harness.cluster.session import Session
from harness.cluster.ssh import ShellError
from harness.core.errors import InputError
from harness.progress.board import Board, StudyRow
from harness.progress.live import Progress, StudyGoal
from harness.progress.wire import PREFIX, Sender, read
from harness.runs.jobs import Job, Report

DONE = Ending("SUCCEEDED", 0, "")


def rows():
    counts = st.integers(0, 9)
    best = st.none() | st.floats(-1, 1)
    row = st.builds(
        StudyRow,
        title=st.text(max_size=8),
        metric=st.just("mcc"),
        trials=counts,
        finals=counts,
        ended=counts,
        best=best,
    )
    return st.dictionaries(st.integers(0, 3), row, max_size=4)


@given(st.lists(rows(), min_size=1, max_size=6))
def test_lines_from_the_first_on_hold_the_whole_board(boards):
    sender, there, here = Sender(), Board(), Board()
    for number, found in enumerate(boards):
        there = Board(stage="search", done=number / 10, left_s=number, rows={**there.rows, **found})
        line = sender.line(there)
        if line is not None:
            assert line.startswith(PREFIX) and "\n" not in line
            here.update(read(line))
        assert (here.rows, here.done) == (there.rows, there.done)
    assert sender.line(there) is None  # nothing new


def test_a_line_grows_with_what_changed_alone():
    board = Board(rows={n: StudyRow(title=f"task {n}", metric="mcc", trials=8, finals=3) for n in range(98)})
    sender = Sender()
    first = sender.line(board)
    board.rows[5] = StudyRow(title="task 5", metric="mcc", trials=8, finals=3, ended=1)
    assert len(sender.line(board)) < len(first) / 50


@pytest.mark.parametrize("line", ["x", PREFIX, PREFIX + "[1]", PREFIX + '{"a"', " " + PREFIX + "{}"])
def test_lines_that_say_nothing_of_progress(line):
    assert read(line) is None


@pytest.mark.parametrize(
    "news", [{"rows": 3}, {"rows": {"x": {}}}, {"rows": {"0": {"y": 1}}}, {"done": "much"}]
)
def test_news_that_make_no_sense_change_nothing_and_end_nothing(news):
    Board().update(news)


def played(terminal):
    """A small benchmark's output as its follower's screen shows it, and that output."""
    out, shown = io.StringIO(), io.StringIO()
    goals = [StudyGoal(key="a|b|c", title="a c", metric="mcc", trials=1, finals=1, epochs=1, cost=1.0)]
    job = Job(id="a/trial-0000", study="a|b|c", stage="search", backbone="b", data="d", config={})
    with Progress(goals, Console(file=out, width=80), every=0.0, wire=True) as progress:
        progress.stage("search")
        progress.update(
            job, Report(job=job.id, number=1, status="running", epoch=1, dev={"mcc": 0.5}), "finished"
        )
    lines = ["Training on a cluster", *out.getvalue().splitlines(), "(raylet) noise", "Done"]
    console = Console(file=shown, width=80, force_terminal=terminal)
    with Screen(console) as screen:
        for line in lines:
            screen.take(line)
            if screen._live is not None:
                screen._live.refresh()
    return shown.getvalue(), lines, screen


def test_a_terminal_shows_the_table_and_what_comes_after_it():
    shown, lines, screen = played(terminal=True)
    for text in ("Training on a cluster", "best dev", "mcc 0.500", "Done"):
        assert text in shown
    assert PREFIX not in shown and "noise" not in shown and screen.seen == len(lines)


def test_elsewhere_lines_now_and_then():
    shown, lines, _ = played(terminal=False)
    assert "search 1/1 trials" in shown and PREFIX not in shown and "best dev" not in shown
    assert plain(lines) == [*shown.splitlines()[:-1], "(raylet) noise", "Done"]


def test_a_look_in_between_finds_the_table():
    _, lines, _ = played(terminal=False)
    assert board_of(lines) is None  # over
    board = board_of([line for line in lines if '"over":true' not in line])
    assert board is not None and board.rows[0].best == 0.5 and board_of(["x"]) is None


class Broken:
    """Connections of which the first ones break, in several ways."""

    def __init__(self, monkeypatch, *ways):
        self.ways, self.asked = list(ways), []
        self.now = 0.0
        monkeypatch.setattr(following, "connection", self.connection)
        monkeypatch.setattr(following, "_say_doors", lambda *_: None)
        monkeypatch.setattr(following.time, "sleep", self.sleep)
        monkeypatch.setattr(following.time, "monotonic", lambda: self.now)

    def sleep(self, seconds):
        self.now += seconds

    @contextmanager
    def connection(self, session):
        way = self.ways.pop(0) if self.ways else None
        if isinstance(way, ShellError):
            raise way
        yield self, {}

    def follow(self, job, take, *, seen):
        self.asked.append(seen)
        take(f"line {seen}")
        if len(self.asked) == 1:
            raise ConnectionError("no answer: gone")
        return DONE


def test_a_connection_that_breaks_is_made_again_and_nothing_is_shown_twice(monkeypatch, tmp_path):
    broken = Broken(monkeypatch, None, ShellError("no tunnel"), ShellError("no tunnel"))
    text = io.StringIO()
    ending = following._follow(Session(out=tmp_path, job="j"), Console(file=text, width=200))
    assert ending == DONE and broken.asked == [0, 1]
    assert text.getvalue().count("No answer from the cluster") == 1 and text.getvalue().count("line 0") == 1


def test_a_cluster_that_stays_away_is_left_with_how_to_come_back(monkeypatch, tmp_path):
    Broken(monkeypatch, *[ShellError("no tunnel")] * 1000)
    text = io.StringIO()
    session = Session(out=tmp_path / "my run", job="j", provider="aws", file="c.yaml")
    code = following.attach(session, TeardownOptions(), Console(file=text, width=200))
    assert code == 130 and "no longer answers (no tunnel)" in text.getvalue()
    assert f"lingo-bench attach '{tmp_path}/my run'" in text.getvalue()
    assert "cost money" in text.getvalue()


def test_lines_are_passed_on_once_when_the_stream_breaks_in_the_middle(monkeypatch):
    jobs, streams = Jobs.__new__(Jobs), [["a\nb\n"], ["a\nb\nc", "\nd\n"]]

    class Client:
        async def tail_job_logs(self, job):
            for chunk in streams.pop(0):
                yield chunk
            if streams:
                raise RuntimeError("WebSocket connection closed unexpectedly")

    jobs._client = Client()
    monkeypatch.setattr("harness.cluster.jobs_api.RETRY_S", 0.0)
    monkeypatch.setattr(Jobs, "ending", lambda self, job: DONE)
    monkeypatch.setattr(Jobs, "logs", lambda self, job: "a\nb\nc\nd\ne")
    lines = []
    assert jobs.follow("j", lines.append) == DONE
    assert lines == ["a", "b", "c", "d", "e"]


def test_a_job_is_told_to_send_progress():
    from harness.cluster.jobs_api import JOB_SETTINGS
    from harness.progress.wire import SETTING

    assert JOB_SETTINGS[SETTING] == "1" and "TOKEN" not in json.dumps(JOB_SETTINGS).upper()


def test_a_terminal_that_is_too_low_shows_what_is_at_work():
    def row(place):
        how = {"running": 1} if place % 10 == 7 else {"ended": 4, "tested": 2} if place < 30 else {}
        return StudyRow(title=f"task {place:02}", metric="mcc", trials=4, finals=2, **how)

    board = Board(stage="search", done=0.4, rows={place: row(place) for place in range(91)})
    text = io.StringIO()
    Console(file=text, width=100).print(board.table(height=24))
    lines = text.getvalue().splitlines()
    assert len(lines) <= 22 and "search" in lines[-1]
    assert all(f"task {place:02}" in text.getvalue() for place in range(7, 91, 10))
    assert "of 91 studies 27 are complete, 55 not started" in lines[-2]
    titles = [line.split()[1] for line in lines[1:-2]]
    assert titles == sorted(titles) and len(titles) == 18
    Console(file=text, width=100).print(board.table())
    assert "task 90" in text.getvalue()


def test_a_job_that_the_cluster_does_not_know_any_more(monkeypatch, tmp_path):
    jobs = Jobs.__new__(Jobs)

    class Client:
        def get_job_info(self, job):
            raise RuntimeError(f"Request failed with status code 404: Job {job} does not exist")

    jobs._client = Client()
    with pytest.raises(JobLost, match=r"no longer has the job j.*same command again"):
        jobs.ending("j")
    broken = Broken(monkeypatch)
    broken.follow = lambda *_, **__: jobs.ending("j")
    with pytest.raises(JobLost):
        following._follow(Session(out=tmp_path, job="j"), Console(quiet=True))


def test_a_job_that_is_not_taken_is_told_in_one_line(monkeypatch):
    jobs = Jobs.__new__(Jobs)

    class Client:
        def submit_job(self, **_):
            raise RuntimeError("Request failed with status code 500:\n  no space left")

    jobs._client = Client()
    monkeypatch.setattr("harness.cluster.jobs_api.program", lambda folder: folder)
    with pytest.raises(
        InputError, match=r"could not be submitted \(Request failed with status code 500: no space"
    ):
        jobs.submit(["x"], name="x")
