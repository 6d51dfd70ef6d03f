"""Clusters that are up already: what is in use is neither started again nor terminated."""

import io
import subprocess
from contextlib import contextmanager
from dataclasses import replace

import pytest
from rich.console import Console

from harness.cluster import finish, joining, launch
from harness.cluster.file import ClusterFile
from harness.cluster.session import Session, load_session
from harness.cluster.ssh import Remote, ShellError
from harness.core.errors import InputError

PLACE = {"type": "local", "head_ip": "h", "worker_ips": []}
CONFIG = {"cluster_name": "c", "provider": PLACE, "auth": {"ssh_user": "u"}, "head_start_ray_commands": []}


class Head:
    """A head that is up, with its jobs and files; nothing of it is real."""

    def __init__(self, monkeypatch, tmp_path):
        self.file = ClusterFile(path=tmp_path / "c.yaml", config=CONFIG, kinds=())
        self.config = launch.resolve(self.file, print)
        self.session = Session(out=tmp_path / "run", name="c", provider="local")
        self.jobs, self.answers, self.said = [], True, []
        self.files = {joining.DIGEST: launch.digest_of(self.config), "pgrep": "17"}
        monkeypatch.setattr(joining, "connection", self.connection)
        monkeypatch.setattr(Remote, "run", lambda remote, line, **_: self.run(line))

    @contextmanager
    def connection(self, session):
        if not self.answers:
            raise InputError("nobody answers")
        yield self, {}

    def running(self):
        return self.jobs

    def run(self, line):
        if self.files is None:
            raise ShellError("no route to host")
        return next((text for part, text in self.files.items() if part in line), "")

    def join(self):
        return joining.join(self.file, self.config, self.session, self.said.append)


@pytest.fixture
def head(monkeypatch, tmp_path):
    return Head(monkeypatch, tmp_path)


def test_one_with_the_same_file_is_joined_and_not_started_again(head):
    session = head.join()
    assert (session.host, session.user) == ("h", "u")
    assert head.said == ["the cluster is already up and matches the file"]
    head.jobs = ["raysubmit_1 (theirs)"]
    assert head.join() is not None and "runs raysubmit_1 (theirs)" in head.said[-1]


def test_one_with_another_file_is_refused_while_jobs_run_there(head):
    head.config["max_workers"] = 9
    head.files[joining.DIGEST] = "another"
    assert head.join() is None
    head.jobs = ["raysubmit_1 (theirs)"]
    with pytest.raises(
        InputError, match=r"c runs raysubmit_1 \(theirs\), and was started with another content"
    ):
        head.join()
    assert not (head.session.out / "cluster.json").exists()


def test_ray_that_runs_and_does_not_answer_is_not_started_again(head):
    head.answers = False
    with pytest.raises(InputError, match=r"Ray runs on h.*nobody answers"):
        head.join()
    head.files["pgrep"] = ""
    assert head.join() is None
    head.files = None
    assert head.join() is None


def test_the_digest_is_of_the_file_alone(tmp_path):
    other = replace(ClusterFile(path=tmp_path / "d.yaml", config=CONFIG, kinds=()), config=dict(CONFIG))
    one = launch.resolve(ClusterFile(path=tmp_path / "c.yaml", config=CONFIG, kinds=()), print)
    assert launch.digest_of(one) == launch.digest_of(launch.resolve(other, print))
    changed = {**CONFIG, "max_workers": 9}
    assert launch.digest_of(one) != launch.digest_of(launch.resolve(replace(other, config=changed), print))


def test_a_cluster_that_others_use_is_not_terminated(head, monkeypatch):
    downs, text = [], io.StringIO()
    monkeypatch.setattr(finish, "ray_down", lambda *_: downs.append(1) or [])
    session = replace(head.session, host="h", file="c.yaml", job="mine", folder="/h/lingo/runs/mine-1").save()
    head.jobs = ["mine (run)", "theirs (other)"]
    head.files = {"lingo/runs": "other-2\n"}
    console = Console(file=text, width=400)
    assert finish.teardown(session, True, console) == 0 and not downs
    said = text.getvalue()
    assert "theirs (other) still runs" in said and "~/lingo/runs/other-2 are not downloaded" in said
    assert "mine (run)" not in said and f"stop {session.out} --discard" in said
    assert load_session(session.out).host == "h"
    assert finish.teardown(session, True, console, discard=True) == 0 and downs
    head.jobs, head.files = ["mine (run)"], {}
    assert joining.in_use(session) == []


def test_results_that_are_only_on_the_head(tmp_path):
    runs = tmp_path / "lingo" / "runs"
    for name in ("mine", "home", "stored", "late", "lost"):
        (runs / name / "records").mkdir(parents=True)
    (runs / "nothing").mkdir()
    (runs / "late" / joining.HOME).touch()
    for name in ("mine", "home", "stored", "late", "lost"):
        (runs / name / "records" / "one.json").touch()
    (runs / "home" / joining.HOME).touch()
    (runs / "stored" / joining.COPIED).touch()
    import os

    old = (runs / "late" / joining.HOME).stat().st_mtime - 10
    os.utime(runs / "late" / joining.HOME, (old, old))
    line = joining.NOT_HOME.format(own="mine", marks=f"{joining.HOME} {joining.COPIED}")
    done = subprocess.run(
        ["bash", "-c", line],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["late", "lost"], done.stderr
