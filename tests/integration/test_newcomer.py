"""A newcomer: from the last lines of a first run to its best configuration, curve, adapter and a prediction.

The run is started from Python, with its progress in a log. After that, every command is one that a screen of 80
columns showed; a browser opens the pages. Only the port of the UI is this test's own.
"""

import csv
import os
import pty
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import Run
from tests.support.browser import CHROMIUM, page

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]

PROGRAM = """
from harness import benchmark
if __name__ == "__main__":
    run = benchmark(
        tasks=["quickstart/promoter"], models="quickstart-opt", methods=["lora", "ars"], num_samples=2,
        epochs=2, seeds=[0], limit=160, out="first",
    )
    print(run.results()[["method", "seed", "test_mcc"]].to_string())
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a finished run, `first`, and the checkout's command; what the program that ran it printed."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "run_benchmark.py").symlink_to(ROOT / "run_benchmark.py")
    (folder / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "COLUMNS": "80", **more}


def start(line, folder, **more):
    """A command as it stood on a screen, in a terminal of 80 columns; the process and the terminal's end."""
    words = shlex.split(line)
    assert words[:2] == ["python", "run_benchmark.py"], line
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *words[1:]],
        cwd=folder,
        env=environment(**more),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    return process, ours


def read(terminal, until=None, seconds=300):
    """What a terminal shows, without its control sequences, to its end or to a text."""
    text, deadline = "", time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            text += os.read(terminal, 65536).decode(errors="replace")
        except OSError:  # the program has ended
            break
        if until is not None and until in text:
            break
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "")


def screen(line, folder):
    process, terminal = start(line, folder)
    text = read(terminal)
    os.close(terminal)
    assert process.wait(60) == 0, text
    return text


def named(text, name):
    """The command or path of a line `name  …` of a screen."""
    found = re.findall(rf"^{name} +(.+)$", text, re.M)
    assert found, f"no line {name!r} in:\n{text}"
    return found[-1].strip()


def test_a_benchmark_from_python_shows_its_progress_without_a_terminal(home):
    folder, printed = home
    run = Run(folder / "first")
    assert run.state().finals == 2 and set(run.results()["method"]) == {"lora", "ars"}
    assert set(run.trials()["config_learning_rate"]) and len(run.trials()) == 4
    assert "2 of 2 searches and 2 of 2 final runs are complete" in printed
    stages = re.findall(r"^ *\d[\w ]*  (search|final stage)$", printed, re.M)
    assert stages == ["search", "final stage"], "how far it is, while it trains"
    assert re.search(r"^0 +(lora|ars) +0 +-?\d", printed, re.M), "the program goes on with the run as a table"
    assert "\x1b" not in printed


@pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine")
def test_every_step_is_named_by_the_screen_before(home, tmp_path):
    folder, _ = home
    again = "python run_benchmark.py --tasks quickstart/promoter --models quickstart-opt --methods lora,ars"
    last = screen(f"{again} --num-samples 2 --epochs 2 --seeds 0 --limit 160 --out first", folder)
    assert "nothing is trained" in " ".join(last.split())

    best = screen(named(last, "best"), folder)
    first = next(name for name in re.findall(r"\b(lora|ars)\b", best))
    assert "learning_rate" in best and all(len(line) <= 80 for line in best.splitlines())

    report = Path(named(last, "report"))
    seen = page(f"file://{report if report.is_absolute() else folder / report}", tmp_path)
    assert "dev score against FLOPs-adjusted steps" in seen and "figure_5b_flops_adjusted" in seen

    address, views = opened(named(last, "MLflow"), folder, tmp_path)
    rows, curve = views
    assert re.search(r"(lora|ars) · quickstart/promoter", rows)[1] == first, address
    assert "dev_mcc" in curve and "flops_adjusted_step" in curve

    exported = screen(named(last, "export"), folder)
    use = named(exported, "use")
    assert "--input sequences.fa" in use
    (folder / "sequences.fa").write_text(">one\nACGTTGCATATAAGGCACGT\n>two\nGGGCGCACGTACGTACGTAC\n")
    screen(use, folder)
    predicted = list(csv.DictReader((folder / "predictions.csv").open()))
    assert len(predicted) == 2 and abs(sum(float(predicted[0][f"p_{i}"]) for i in (0, 1)) - 1) < 1e-4


def opened(line, folder, tmp_path):
    """The page that `ui --open` opens in the browser, and what it and the view of the curves show."""
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {shlex.quote(str(tmp_path))}/opened\n')
    browser.chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process, terminal = start(f"{line} --port {port}", folder, BROWSER=str(browser))
    try:
        text = read(terminal, until="Failures")
        curves = re.search(r"Backbones at equal compute +(http\S+)", text)[1]
        deadline = time.monotonic() + 120
        while not (tmp_path / "opened").exists():
            assert process.poll() is None and time.monotonic() < deadline, text
            time.sleep(0.2)
        address = (tmp_path / "opened").read_text().strip()
        assert re.search(rf"Best configurations +{re.escape(address)}$", text, re.M), (
            "the first view is opened"
        )
        return address, [page(one, tmp_path) for one in (address, curves)]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        os.close(terminal)
