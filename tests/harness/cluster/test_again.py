"""The same command again: machines that are up, with the same file, are left as they are."""

from contextlib import contextmanager
from dataclasses import replace

import pytest

from harness.cluster import launch, run
from harness.cluster.file import ClusterFile
from harness.cluster.session import Session, load_session
from harness.core.errors import InputError

CONFIG = {"cluster_name": "c", "provider": {"type": "local", "head_ip": "h", "worker_ips": []}, "auth": {}}


@pytest.fixture
def started(monkeypatch, tmp_path):
    """A session whose machines were started with CONFIG; nothing of it is real."""
    monkeypatch.setattr(launch, "stream", lambda *_: 0)
    monkeypatch.setattr(launch, "with_head", lambda session: session.save(host="h", user="u", key="k"))
    file = ClusterFile(path=tmp_path / "c.yaml", config=CONFIG, kinds=())
    session = Session(out=tmp_path / "run", name="c", provider="local").save()
    return file, launch.ray_up(file, CONFIG, session, print)


def again(started, config=CONFIG, **changes):
    file, session = started
    new = Session(out=session.out, name="c", provider="local", started=1.0)
    return run._as_it_is(file, config, replace(session, **changes), new, print)


@contextmanager
def answers(session):
    yield None, {}


@contextmanager
def refuses(session):
    raise InputError("nobody is there")
    yield


def test_a_cluster_that_answers_is_not_started_again(started, monkeypatch):
    monkeypatch.setattr(run, "connection", answers)
    session = again(started)
    assert session is not None and (session.host, session.user, session.key) == ("h", "u", "k")
    assert session.file == started[1].file and session.started == 1.0
    assert load_session(session.out) == session


@pytest.mark.parametrize(
    ("config", "changes"),
    [({**CONFIG, "max_workers": 3}, {}), (CONFIG, {"host": ""}), (CONFIG, {"name": "d"})],
)
def test_another_file_another_name_or_no_head_is(started, monkeypatch, config, changes):
    monkeypatch.setattr(run, "connection", answers)
    assert again(started, config, **changes) is None


def test_so_is_one_that_does_not_answer(started, monkeypatch):
    monkeypatch.setattr(run, "connection", refuses)
    assert again(started) is None
