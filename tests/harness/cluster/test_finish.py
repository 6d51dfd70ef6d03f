"""The end of a benchmark on a cluster: who is asked, what is taken down, and what is said when that fails."""

import base64
import io
import json
import random
import shutil
import sqlite3
import subprocess
import tarfile
from pathlib import Path

import pytest
from rich.console import Console

from harness.cluster import finish, launch, results_archive, spending
from harness.cluster.download import bring_back, differing
from harness.cluster.finish import TeardownOptions, agreed, conclude, teardown
from harness.cluster.jobs_api import Ending, NodeRow
from harness.cluster.session import Session, load_session
from harness.core.errors import InputError

DONE = Ending("SUCCEEDED", 0, "")


class Cloud:
    """What the end asks for: results home, the cluster down."""

    def __init__(self, monkeypatch, tmp_path, *, left=(), lost=False):
        self.text, self.downs = io.StringIO(), 0
        self.console = Console(file=self.text, width=300)
        self.session = Session(
            out=tmp_path / "run", file="c.yaml", host="10.0.0.1", provider="aws", nodes=9, hourly=8.0, job="j"
        ).save()

        def home(session):
            if lost:
                raise InputError("the line is down")
            return 12

        def down(session, say):
            self.downs += 1
            if left == "Ctrl-C":
                raise KeyboardInterrupt
            return list(left)

        monkeypatch.setattr(finish, "spent", lambda session: spending.spending(session))
        monkeypatch.setattr(finish, "bring_home", home)
        monkeypatch.setattr(finish, "ray_down", down)

    @property
    def said(self):
        return self.text.getvalue()


@pytest.fixture
def cloud(monkeypatch, tmp_path):
    return lambda **how: Cloud(monkeypatch, tmp_path, **how)


class Stdin(io.StringIO):
    def __init__(self, text, terminal):
        super().__init__(text)
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.fixture
def answer(monkeypatch):
    """What stands at the standard input; whether it is a terminal."""
    return lambda text, terminal=False: monkeypatch.setattr("sys.stdin", Stdin(text, terminal))


@pytest.mark.parametrize(
    "text,terminal,default,nobody,agrees",
    [
        ("y\n", True, False, False, True),
        ("n\n", True, True, True, False),
        ("\n", True, True, False, True),
        ("\n", True, False, True, False),
        ("y\n", False, False, False, True),
        ("", False, False, True, True),  # nobody there
        ("", False, True, False, False),
        ("", True, True, True, False),  # Ctrl-D on a terminal is no yes
    ],
)
def test_who_is_asked(answer, text, terminal, default, nobody, agrees):
    answer(text, terminal)
    assert agreed("Well?", Console(quiet=True), default=default, nobody=nobody) is agrees


def test_with_nobody_to_ask_the_cluster_goes_once_the_results_are_home(cloud, answer):
    answer("")
    there = cloud()
    assert conclude(there.session, DONE, TeardownOptions(), there.console) == 0
    assert there.downs == 1 and "12 files downloaded" in there.said and "nothing is left" in there.said
    assert "at most $" in there.said
    assert load_session(there.session.out).host == "" and load_session(there.session.out).file == ""


@pytest.mark.parametrize("wish", [None, True])
def test_results_that_are_not_home_are_not_taken_down_with_it(cloud, answer, wish):
    answer("y\n")
    there = cloud(lost=True)
    assert conclude(there.session, DONE, TeardownOptions(teardown=wish), there.console) == 1
    assert there.downs == 0 and "the line is down" in there.said and "not terminated" in there.said
    assert (
        f"attach {there.session.out}" in there.said and f"stop {there.session.out} --teardown" in there.said
    )


@pytest.mark.parametrize("wish,text,downs", [(True, "", 1), (None, "", 0), (None, "\n", 0), (None, "y\n", 1)])
def test_stop_takes_them_down_if_the_user_says_so(cloud, answer, wish, text, downs):
    answer(text)
    there = cloud(lost=True)
    assert (
        conclude(there.session, DONE, TeardownOptions(teardown=wish), there.console, all_the_same=True) == 1
    )
    assert there.downs == downs


def test_kept_when_told_so_with_the_way_to_end_it(cloud, answer):
    answer("")
    there = cloud()
    assert conclude(there.session, DONE, TeardownOptions(teardown=False), there.console) == 0
    assert there.downs == 0 and f"stop {there.session.out} --teardown" in there.said
    assert load_session(there.session.out).host == "10.0.0.1"


@pytest.mark.parametrize("remembered,given,downs", [(True, None, 1), (False, None, 0), (True, False, 0)])
def test_the_wish_at_the_start_is_remembered_by_attach(cloud, answer, remembered, given, downs):
    answer("n\n", terminal=True)
    there = cloud()
    session = there.session.save(teardown=remembered)
    assert conclude(session, DONE, TeardownOptions(teardown=given), there.console) == 0
    assert there.downs == downs and "Terminate" not in there.said
    assert load_session(session.out).teardown is remembered


def test_what_is_left_is_named_and_remembered(cloud):
    there = cloud(left=["machine i-1 still exists: terminate it in the provider's console."])
    assert conclude(there.session, DONE, TeardownOptions(teardown=True), there.console) == 1
    assert "machine i-1" in there.said and "stop" in there.said and "nothing is left" not in there.said
    assert load_session(there.session.out).file == "c.yaml"


def test_ctrl_c_while_it_is_taken_down(cloud):
    there = cloud(left="Ctrl-C")
    assert teardown(there.session, True, there.console) == 1
    assert "machines may be left" in there.said and f"stop {there.session.out} --teardown" in there.said
    assert load_session(there.session.out).host == "10.0.0.1"


def test_a_failed_job_keeps_its_exit_code_through_the_teardown(cloud):
    there = cloud()
    assert (
        conclude(there.session, Ending("FAILED", 3, ""), TeardownOptions(teardown=True), there.console) == 3
    )
    assert "The job ended as FAILED" in there.said and there.downs == 1


class Provider:
    """A cloud's machines, which end when asked for the so many-th time."""

    def __init__(self, deaf):
        self.there, self.deaf = ["i-1", "i-2"], deaf

    def non_terminated_nodes(self, _):
        return list(self.there)

    def terminate_nodes(self, names):
        self.deaf -= 1
        if self.deaf <= 0:
            self.there = [name for name in self.there if name not in names]


@pytest.mark.parametrize("deaf,left", [(1, 0), (2, 2)])
def test_what_ray_leaves_is_asked_once_more(monkeypatch, deaf, left):
    provider, said = Provider(deaf), []
    monkeypatch.setattr(launch, "_provider", lambda config: provider)
    monkeypatch.setattr(launch, "GONE_S", 0.0)
    lines = launch._cloud_left({"cluster_name": "x"}, said.append)
    assert len(lines) == left and all("still exists" in line for line in lines)
    assert said == ["2 machines still exist; terminating them again."]


def test_a_provider_that_cannot_be_asked_is_no_clean_end(monkeypatch):
    def gone(config):
        raise OSError("no route to host")

    monkeypatch.setattr(launch, "_provider", gone)
    (line,) = launch._cloud_left({"cluster_name": "x"}, lambda line: None)
    assert "cannot be listed (no route to host)" in line and "those of x" in line


def test_only_relative_files_of_the_project_are_found_from_everywhere(tmp_path, monkeypatch):
    from harness.cluster.file_checks import source_of

    monkeypatch.chdir(tmp_path)
    found = source_of("clusters/requirements.txt", tmp_path)
    assert found == Path(launch.__file__).resolve().parents[2] / "clusters" / "requirements.txt"
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "requirements.txt").write_text("")
    assert source_of("clusters/requirements.txt", tmp_path) == tmp_path / "clusters" / "requirements.txt"


def test_what_was_used_is_counted_by_machine(tmp_path):
    session = Session(
        out=tmp_path, provider="aws", started=0.0, hourly=8.208, head_price=0.5, worker_price=1.0
    )
    rows = [
        NodeRow("10.0.0.1", True, 300.0, None),
        NodeRow("10.0.0.2", False, 3600.0, 7200.0),
        NodeRow("10.0.0.3", False, 3600.0, None),
    ]
    text = spending.used(session, rows, 10_800.0)
    assert "the head for 3.0 h, 2 other machines for 3.0 h in all, about $4.50" in text
    assert spending.used(session, [], 10_800.0) == ""
    assert "$" not in spending.used(Session(out=tmp_path, provider="local"), rows, 10_800.0)


def test_without_an_answer_the_bound_alone_is_told(tmp_path, monkeypatch):
    def gone(session):
        raise InputError("nothing answers there")

    monkeypatch.setattr(spending, "connection", gone)
    monkeypatch.setattr("time.time", lambda: 7200.0)
    session = Session(out=tmp_path, provider="aws", nodes=9, hourly=8.0, started=3600.0)
    assert spending.spent(session) == spending.spending(session)
    assert "at most $8.00" in spending.spent(session)


def test_a_parcel_holds_what_comes_home_and_nothing_else(tmp_path, monkeypatch, capsys):
    there, here = tmp_path / "there", tmp_path / "here"
    for name in ("records/a.json", "results.parquet", "data/x", ".hidden/y", "open/z"):
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_bytes(name.encode() * 20_000)
    monkeypatch.setattr("sys.argv", ["parcel", str(there)])
    results_archive.main()
    printed = capsys.readouterr().out
    told = json.loads(printed.splitlines()[-1])
    assert sorted(told["files"]) == ["records/a.json", "results.parquet"]
    results_archive.unwrap(printed, here)
    assert differing(told["files"], here) == []
    assert sorted(path.name for path in here.rglob("*") if path.is_file()) == ["a.json", "results.parquet"]


def test_a_parcel_that_is_too_large_is_not_made(tmp_path):
    (tmp_path / "a").write_bytes(random.Random(0).randbytes(100_000))
    packed, told = results_archive.wrap(tmp_path, 50_000, ())
    assert packed == b"" and told["bytes"] > 50_000 and told["files"] == {}


def test_a_parcel_puts_nothing_outside_its_folder(tmp_path):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        info = tarfile.TarInfo("../outside")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    text = results_archive.PREFIX + base64.b64encode(packed.getvalue()).decode()
    for wrong in (text, text[:-60], "", results_archive.PREFIX + "!"):
        with pytest.raises(InputError, match="did not arrive whole"):
            results_archive.unwrap(wrong, tmp_path / "here")
    assert not (tmp_path / "outside").exists()


class Head:
    """A head's files, in a folder here."""

    def __init__(self, folder):
        self.folder = folder

    def run(self, line, **_):
        return subprocess.run(["bash", "-c", line], check=True, capture_output=True, text=True).stdout

    def push(self, local, folder, *, exclude=()):
        Path(folder).mkdir(parents=True, exist_ok=True)
        skip = [f"--exclude={pattern}" for pattern in exclude]
        source = f"{local}/" if local.is_dir() else str(local)
        subprocess.run(["rsync", "--archive", *skip, source, f"{folder}/"], check=True)


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
def test_a_new_head_goes_on_from_what_an_earlier_one_sent_home(tmp_path, monkeypatch):
    out, there = tmp_path / "run", tmp_path / "head" / "run-abc"
    monkeypatch.setattr(Session, "remote", property(lambda self: Head(there)))
    session = Session(out=out, folder=str(there)).save()
    assert not bring_back(session) and not there.exists()  # nothing came home yet
    for name in ("benchmark.json", "records/a.json", "cluster/up.log", "data/x", "checkpoints/y"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(name)
    here = (out.resolve() / "mlartifacts").as_uri()
    with sqlite3.connect(out / "mlflow.db") as database:
        database.execute("CREATE TABLE experiments (artifact_location TEXT)")
        database.execute("CREATE TABLE runs (artifact_uri TEXT)")
        database.execute("INSERT INTO experiments VALUES (?)", (f"{here}/1",))
        database.execute("INSERT INTO runs VALUES (?)", (f"{here}/1/abc/artifacts",))
    assert bring_back(session)
    names = {path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file()}
    assert names == {"benchmark.json", "records/a.json", "mlflow.db"}
    with sqlite3.connect(there / "mlflow.db") as database:
        assert database.execute("SELECT * FROM runs").fetchall() == [
            (f"{(there / 'mlartifacts').as_uri()}/1/abc/artifacts",)
        ]
    with sqlite3.connect(out / "mlflow.db") as database:  # ours is as it was
        assert database.execute("SELECT * FROM runs").fetchall() == [(f"{here}/1/abc/artifacts",)]
    (there / "records" / "a.json").write_text("newer")
    assert not bring_back(session) and (there / "records" / "a.json").read_text() == "newer"
