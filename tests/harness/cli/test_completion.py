"""Shell completion, as a shell asks for it, and `ui --open` with a browser that notes its page."""

import os
import shlex
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from harness.cli.commands import COMMANDS
from harness.cli.ui import OPENER

ROOT = Path(__file__).resolve().parents[3]


def environment(tmp_path, **more):
    """The command as `lingo-bench` on the path."""
    script = tmp_path / "bin" / "lingo-bench"
    script.parent.mkdir(exist_ok=True)
    main = "from harness.cli.main import main; import sys; sys.argv[0] = 'lingo-bench'; main()"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{main}" "$@"\n')
    script.chmod(0o755)
    path = f"{script.parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, **more}


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")
@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["lingo-bench", "be"], {"best"}),
        (["lingo-bench", ""], set(COMMANDS)),
        (["lingo-bench", "run", "--num-s"], {"--num-samples"}),
        (["lingo-bench", "ui", "x", "--op"], {"--open"}),
    ],
)
def test_bash_completes_commands_and_options(tmp_path, words, found):
    typed = " ".join(map(shlex.quote, words))
    program = f"""
      eval "$(_LINGO_BENCH_COMPLETE=source_bash lingo-bench)"
      COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}
      $(complete -p lingo-bench | sed 's/.*-F \\([^ ]*\\).*/\\1/') lingo-bench
      printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "-c", program], env=environment(tmp_path), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == found


def test_a_checkout_completes_the_installed_name_and_leaves_python_alone(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "run_benchmark.py")],
        env=environment(tmp_path, _LINGO_BENCH_COMPLETE="source_bash"), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("complete ")]
    assert line.split()[-1] == "lingo-bench" and "python" not in line


def test_the_browser_opens_once_the_server_answers(tmp_path):
    """`ui --open`: the page is opened after the first answer, and never before."""
    answers = []

    class Late(BaseHTTPRequestHandler):
        def do_GET(self):
            answers.append((self.path, (tmp_path / "opened").exists()))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {shlex.quote(str(tmp_path / "opened"))}\n')
    browser.chmod(0o755)
    server = HTTPServer(("127.0.0.1", 0), Late)
    here = f"http://127.0.0.1:{server.server_port}"
    opener = subprocess.Popen(
        [sys.executable, "-c", OPENER, here, f"{here}/#/page"], env={**os.environ, "BROWSER": str(browser)}
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        assert opener.wait(60) == 0
    finally:
        opener.kill()
        server.shutdown()
        thread.join()
        server.server_close()
    assert answers == [("/health", False)] and (tmp_path / "opened").read_text() == f"{here}/#/page\n"
