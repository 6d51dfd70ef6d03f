"""`--notify`: what a real server and a real command are told, and that neither can hold up or end a run."""

import json
import logging
import os
import re
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from harness.config.build import build
from harness.config.plan import plan
from harness.core.errors import InputError, RunStopped
from harness.core.notify_target import notify_setting, target
from harness.pipeline import notify
from harness.pipeline.budgets import Budgets, Limits
from harness.pipeline.interrupts import outlived
from harness.pipeline.notify import Notifier, notified
from harness.runs.jobs import Job, Report

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "notify.md").read_text(encoding="utf-8")
EXAMPLE = json.loads(re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)[1])
JOB = Job(id="t|b|lora/trial-0", study="t|b|lora", stage="search", backbone="b", data="d", config={})
WRITES = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read() + '\\n')"


class Server(ThreadingHTTPServer):
    """Answers with the statuses in turn, the last one for ever; a text redirects, a number below 0 is silence."""

    def __init__(self, *answers):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.bodies, self.headers = list(answers), [], []
        self.over = threading.Event()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}/hook"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        answer = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
        server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        server.headers.append(self.headers)
        if answer == -1:
            server.over.wait(30)
        elif isinstance(answer, str):
            self.send_response(302)
            self.send_header("Location", answer)
            self.end_headers()
        else:
            self.send_response(answer)
            self.end_headers()

    do_GET = do_POST

    def log_message(self, *_):
        pass


@contextmanager
def serving(*answers):
    with Server(*answers) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.over.set()
        server.shutdown()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(notify, "PAUSE_S", 0.01)
    monkeypatch.setattr(notify, "ANSWER_S", 30.0)  # a busy machine is no failure
    monkeypatch.setattr(notify, "COMMAND_S", 60.0)
    monkeypatch.setattr(notify, "END_S", 120.0)


@pytest.fixture
def told(tmp_path):
    """Runs that end as the body of a `with` does: lines of warning, and a notifier."""

    @contextmanager
    def run(setting):
        lines = []
        with notified(setting, tmp_path / "run", lines.append) as notifier:
            yield notifier, lines

    return run


def test_the_end_of_a_run_is_posted_as_documented(told):
    with serving(200) as server, told(server.address) as (notifier, lines):
        notifier.text, notifier.winners = EXAMPLE["text"], EXAMPLE["winners"]
        notifier.ended(1)
    (body,), (headers,) = server.bodies, server.headers
    assert {name: type(value) for name, value in body.items()} == {
        name: type(value) for name, value in EXAMPLE.items()
    }
    assert {name: body[name] for name in ("version", "event", "text", "exit_code", "winners")} == {
        name: EXAMPLE[name] for name in ("version", "event", "text", "exit_code", "winners")
    }
    assert headers["Content-Type"] == "application/json" and headers["Authorization"] is None and lines == []
    assert body["folder"] in body["resume"] and body["run"] == Path(body["folder"]).name == "run"


@pytest.mark.parametrize(
    ("answers", "asked", "said"),
    [
        ((503, 429, 200), 3, None),
        ((503,), 3, "status 503"),
        ((404,), 1, "status 404"),
        (("http://127.0.0.1:9/elsewhere",), 1, "status 302"),
        ((-1,), 3, "timed out"),
    ],
)
def test_a_server_is_asked_again_only_where_that_helps(told, answers, asked, said, monkeypatch):
    if answers == (-1,):
        monkeypatch.setattr(notify, "ANSWER_S", 1.0)
    with serving(*answers) as server, told(server.address) as (notifier, lines):
        notifier.ended(0)
    assert len(server.bodies) == asked
    assert [said in line for line in lines] == ([True] if said else [])


def test_no_server_at_all_is_one_line_for_all_messages(told):
    with serving(200) as server:
        address = server.address
    with told(address) as (notifier, lines):
        notifier.trouble("budget", "a")
        notifier.ended(0)
    (line,) = lines
    assert "Connection refused" in line and "the run goes on" in line


def test_a_server_that_never_answers_holds_up_neither_the_run_nor_its_end_for_long(told, monkeypatch):
    monkeypatch.setattr(notify, "ANSWER_S", 20.0)
    monkeypatch.setattr(notify, "END_S", 0.2)
    with serving(-1) as server, told(server.address) as (notifier, lines):
        notifier.trouble("budget", "first")
        notifier.ended(0)
        assert "not taken within" in lines[-1]


def test_every_end_and_trouble_is_in_the_table_of_the_page(told):
    events = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) - {"event"}
    source = Path(notify.__file__).read_text(encoding="utf-8")
    sent = set(re.findall(r'(?:trouble|_send)\(\s*"(\w+)"', source)) | {
        "finished",
        "interrupted",
        "incomplete",
    }
    assert events == sent


@pytest.mark.parametrize(
    ("raised", "event", "code", "said"),
    [
        (RunStopped("Ray has died."), "failed", 1, "Ray has died."),
        (InputError("`--data-dir` is gone."), "failed", 2, "`--data-dir` is gone."),
        (ValueError("http://me:hunter2@host"), "failed", 1, "ValueError"),
        (KeyboardInterrupt(), "interrupted", 130, ""),
    ],
)
def test_what_ends_a_run_is_told_and_raised_again(told, raised, event, code, said):
    with serving(200) as server, pytest.raises(type(raised)), told(server.address):
        raise raised
    (body,) = server.bodies
    assert (body["event"], body["exit_code"], body["text"]) == (event, code, said)


def test_a_vital_process_that_has_died_is_told_before_this_one_leaves(told, tmp_path, monkeypatch):
    from io import StringIO

    from rich.console import Console

    class Dead:
        def poll(self):
            return 1

        def kill(self):
            pass

    left = threading.Event()
    monkeypatch.setattr("os._exit", lambda code: left.set())
    with serving(200) as server, told(server.address) as (notifier, _):
        with outlived(
            {"raylet": Dead()}, Console(file=StringIO()), tmp_path, every=0.01, tell=notifier.failed
        ):
            assert left.wait(20)
        assert [(body["event"], "raylet" in body["text"]) for body in server.bodies] == [("failed", True)]


# ---- commands


def test_a_command_reads_the_message_and_no_shell_its_words(told, tmp_path):
    file = tmp_path / "$HOME; x"
    with told(f"{sys.executable} -c \"{WRITES}\" '{file}'") as (notifier, lines):
        notifier.trouble("budget", "Enough.")
        notifier.ended(0)
    first, last = map(json.loads, file.read_text().splitlines())
    assert (first["event"], first["text"], last["event"], last["exit_code"]) == (
        "budget",
        "Enough.",
        "finished",
        0,
    )
    assert "exit_code" not in first and "resume" not in {*first, *last} and lines == []


def test_a_command_that_fails_or_is_not_there_is_a_line(told):
    with told(f"{sys.executable} -c 'raise SystemExit(3)'") as (notifier, lines):
        notifier.ended(0)
    assert len(lines) == 1 and "exit code 3" in lines[0]
    with told("no-such-program --x") as (notifier, lines):
        assert len(lines) == 1 and "'no-such-program' is not found" in lines[0]
        notifier.ended(0)
    assert len(lines) == 1


@pytest.mark.parametrize("setting", ["no-such-program --x", "env:HOOK"])
def test_a_run_here_is_refused_where_it_cannot_tell(setting, monkeypatch, tmp_path):
    monkeypatch.delenv("HOOK", raising=False)
    with pytest.raises(InputError, match=r"`--notify` .*(no-such-program|HOOK)"):
        plan(build({"notify": setting, "out": tmp_path}))
    assert (
        plan(
            build({"notify": setting, "out": tmp_path, "suite": "quickstart", "cluster": "auto"})
        ).benchmark.notify
        == setting
    )


def test_a_command_that_does_not_end_is_ended_with_its_children(told, tmp_path, monkeypatch):
    monkeypatch.setattr(notify, "COMMAND_S", 3.0)
    file = tmp_path / "child"
    with told(f"sh -c 'sleep 600 & echo $! >{file}; wait'") as (notifier, lines):
        notifier.ended(0)
    assert len(lines) == 1 and "took more than" in lines[0]
    assert _gone(int(file.read_text()))


def _gone(process):
    """Whether a process has ended; it may be left as a zombie where nobody reaps."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


# ---- secrets


@pytest.mark.parametrize(
    "setting",
    [
        "https://me:hunter2hunter2@host.example/hook",
        "https://host.example/hook?key=hunter2hunter2",
        "https://host.example/hook#hunter2hunter2",
        "https://hooks.example/services/T0001/B0001/hunter2hunter2hunter2",
        "HTTPS://hooks.example/hunter2hunter2hunter2",
    ],
)
def test_an_address_with_a_secret_is_refused_without_it(setting):
    with pytest.raises(InputError) as caught:
        build({"notify": setting})
    (line,) = caught.value.problems
    assert line.startswith("`--notify`") and "env:NAME" in line and "hunter2" not in line


@pytest.mark.parametrize(
    "setting", ["", "  ", "'open", "ftp://host/x", "https://", "https://a b", "env:", "env:a b"]
)
def test_what_is_neither_an_address_nor_a_command_is_refused(setting):
    with pytest.raises(InputError, match=r"`--notify`"):
        build({"notify": setting})


@pytest.mark.parametrize(
    "setting", ["https://hooks.example/lingo", "http://127.0.0.1:8000/", "notify-send 'a b'", "env:HOOK"]
)
def test_what_can_be_stored_is_stored_as_given(setting):
    benchmark = build({"notify": setting})
    assert benchmark.notify == notify_setting(setting) == setting
    assert "notify" not in benchmark.identity()


def test_secrets_of_the_environment_reach_the_server_and_nothing_else(told, monkeypatch, tmp_path):
    with serving(200) as server:
        monkeypatch.setenv("HOOK", f"{server.address}/hunter2hunter2hunter2?key=hunter2")
        monkeypatch.setenv("LINGO_NOTIFY_TOKEN", "hunter3")
        with told("env:HOOK") as (notifier, lines):
            notifier.ended(0)
        assert server.headers[0]["Authorization"] == "Bearer hunter3" and lines == []
        assert "hunter" not in json.dumps(server.bodies)
    with told("env:HOOK") as (notifier, lines):  # nobody listens any more
        notifier.ended(0)
    assert len(lines) == 1 and "hunter" not in lines[0]
    monkeypatch.setenv("HOOK", "hunter2-program")
    with told("env:HOOK") as (notifier, lines):
        assert len(lines) == 1 and "hunter" not in lines[0]
    assert "hunter" not in build({"notify": "env:HOOK", "out": tmp_path}).repeat()


def test_a_variable_that_is_not_set_is_a_line(told, monkeypatch):
    monkeypatch.delenv("HOOK", raising=False)
    with told("env:HOOK") as (notifier, lines):
        notifier.ended(0)
    assert len(lines) == 1 and "HOOK" in lines[0]
    assert target("env:HOOK", {"HOOK": "tell 'a b'"}) == ["tell", "a b"]


# ---- trouble


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Unsent(Notifier):
    """Keeps its messages."""

    def __init__(self, tmp_path, clock):
        super().__init__("true", tmp_path, lambda line: None, clock=clock)

    def _work(self):
        pass

    @property
    def sent(self):
        return list(self._messages.queue)

    def events(self):
        return [message["event"] for message in self.sent]


@pytest.fixture
def quiet(tmp_path):
    clock = Clock()
    notifier = Unsent(tmp_path, clock)
    return notifier, clock


def report(status="running", error=None):
    return Report(job=JOB.id, number=1, status=status, error=error)


def test_silence_is_told_once_and_after_three_times_the_longest_silence_before(quiet):
    notifier, clock = quiet
    with notifier.watching(lambda: "half way", dict):
        clock.now = 1700.0
        notifier.look()
        notifier.update(JOB, report(), "running")
        assert notifier.events() == []
        for clock.now in (1700.0 + 3 * 1700 - 1, 1700.0 + 3 * 1700 + 1, 1700.0 + 3 * 1700 + 60):
            notifier.look()
        assert notifier.events() == ["no_progress"] and notifier.sent[0]["progress"] == "half way"
        notifier.update(JOB, report(), "running")  # goes on, and is silent again
        clock.now += 16_000
        notifier.look()
    assert notifier.events() == ["no_progress"] * 2


def test_a_lack_of_memory_is_told_of_what_workers_warn_and_of_failed_trials(quiet):
    notifier, clock = quiet
    log = logging.getLogger("harness.pool.pool")
    with notifier.watching(str, dict):
        log.warning("%s", "group-0: a machine is slow")
        log.warning("%s", "group-0: out of memory with 4 trials at once; continuing with 2")
        log.warning("%s", "group-0: out of memory with 2 trials at once; continuing with 1")
        assert notifier.events() == ["out_of_memory"] and "4 trials" in notifier.sent[0]["text"]
        clock.now += 3601
        notifier.update(JOB, report("failed", "the loss is not finite."), "failed")
        notifier.update(JOB, report("failed", "CUDA out of memory"), "failed")
    log.warning("out of memory")
    assert notifier.events() == ["out_of_memory"] * 2


def test_each_budget_that_is_spent_is_told_once(quiet):
    notifier, clock = quiet
    budgets = Budgets(overall=Limits(seconds=100), per_study=Limits(seconds=30), clock=clock)
    with notifier.watching(str, budgets.cut):
        for clock.now in (0.0, 20.0, 40.0, 60.0, 120.0, 140.0):
            budgets.update(JOB, report(), "started")
            notifier.update(JOB, report(), "started")
    assert notifier.events() == ["budget"]
    assert "30 s of the study" in notifier.sent[0]["text"]


def test_without_the_option_there_is_no_thread(tmp_path):
    before = threading.active_count()
    with notified(None, tmp_path, print) as notifier, notifier.watching(str, dict):
        notifier.update(JOB, report("failed", "out of memory"), "failed")
        notifier.trouble("budget", "x")
        assert threading.active_count() == before
        notifier.ended(0)
    assert os.environ.get(notify.TOKEN) is None
