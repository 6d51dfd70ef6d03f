"""Many command lines in many surroundings: none ends in a traceback, hangs, shows a secret, or leaves files behind."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.support.fuzz_cases import SHARES, Case, Templates, cases, laid_out
from tests.support.planted import SECRETS
from tests.support.tracked import benchmark, keep, story

SERVER = Path(__file__).resolve().parents[1] / "support" / "command_server.py"
ROOT = Path(__file__).resolve().parents[2]
LIMIT = 60
"""Seconds after which a command hangs."""

LOCALES = {
    "utf-8": {"LC_ALL": "C.UTF-8"},
    "ascii": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
}
CODES = {b"best": {0, 1, 2}, b"sync": {0, 1, 2}, b"doctor": {0, 1, 2}, b"plan": {0, 1, 2}}
"""1 of `plan` is a file that the system refuses."""

CRASHES = re.compile(r"Traceback|Exception ignored|Error: .*\n.*File \"")
PLANTED = re.compile("|".join(SECRETS).encode(), re.IGNORECASE)


class Server:
    """One process that runs cases, see `command_server`."""

    def __init__(self, encoding: str, home: Path) -> None:
        self.encoding = encoding
        bare = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **LOCALES[encoding]}
        bare["HOME" if encoding == "utf-8" else "TMPDIR"] = str(home)
        bare["PYTHONPATH"] = str(ROOT)
        if encoding == "ascii":  # an account without a home
            bare["HOME"] = "/nowhere/at/all"
        self._process = subprocess.Popen(
            [sys.executable, str(SERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=bare,
            cwd=home,
        )
        self._ready = False

    def run(self, case: dict) -> dict:
        if not self._ready:
            self._ready = True
            assert json.loads(self._process.stdout.readline()) == {"filesystem": self.encoding}
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(60)


class Fuzz:
    """Runs cases and notes what is wrong with them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.faults, self.count, self.seconds, self._servers = folder, [], {}, {}, {}
        self.server("utf-8")  # gets ready meanwhile
        self.templates = self._templates()

    def server(self, encoding: str) -> Server:
        """The process with this encoding, which is started where there is none."""
        if encoding not in self._servers:
            home = self.folder / f"home-{encoding}"
            home.mkdir()
            self._servers[encoding] = Server(encoding, home)
        return self._servers[encoding]

    def close(self) -> None:
        for server in self._servers.values():
            server.close()

    def _templates(self) -> Templates:
        from harness.data.quickstart import make_backbone
        from harness.tracking.sync import sync

        run, data, model = (self.folder / name for name in ("run", "data", "model"))
        benchmark(run)
        keep(run, *story()[:2], story()[-1])
        sync(run)
        for split, letter in (("train", "A"), ("dev", "C"), ("test", "G")):
            (data / "mouse" / "2").mkdir(parents=True, exist_ok=True)
            rows = "".join(f"{letter}ACGTAC{'ACGT'[row % 4]},{row % 2}\n" for row in range(8))
            (data / "mouse" / "2" / f"{split}.csv").write_text(f"sequence,label\n{rows}")
        make_backbone(model)
        whole = json.loads(
            json.dumps({"suite": "quickstart", "models": ["quickstart-opt"], "tracking_uri": None})
        )
        texts = {
            "csv": (data / "mouse" / "2" / "train.csv").read_bytes(),
            "own": (data / "mouse" / "2" / "train.csv").read_bytes(),
            "store": (run / "mlflow.db").read_bytes(),
            "settings": json.dumps({"settings": whole}).encode(),
            "space": next((ROOT / "search_spaces").glob("lora*.yaml")).read_bytes(),
            "config": json.dumps(
                {"configurations": [{"method": "lora", "config": {"learning_rate": 0.001, "rank": 4}}]}
            ).encode(),
            "cluster": (ROOT / "clusters" / "aws.yaml").read_bytes(),
        }
        return Templates(run=run, data=data, model=model, texts=texts)

    def check(self, case: Case) -> list[str]:
        """What is wrong with a case."""
        root = Path(tempfile.mkdtemp(prefix="c", dir=self.folder))
        try:
            root.chmod(0o755)
            words, environment = laid_out(case, root, self.templates)
            before = _listing(root)
            names = {name: root / "checks" / name for name in ("stdout", "stderr", "started")}
            answer = self.server(case.server).run(
                {
                    "words": [word.decode("latin-1") for word in words],
                    "environment": {
                        name.decode("latin-1"): value.decode("latin-1") for name, value in environment.items()
                    },
                    "folder": str(root / "inputs"),
                    "umask": case.umask,
                    "input": "closed" if case.closed else "null",
                    "ordinary": case.ordinary,
                    "limit": LIMIT,
                    **{name: str(path) for name, path in names.items()},
                }
            )
            command = case.words[0].decode()
            self.count[command] = self.count.get(command, 0) + 1
            self.seconds[command] = self.seconds.get(command, 0) + answer["cpu"]
            said = {name: path.read_bytes() if path.exists() else b"" for name, path in names.items()}
            wrong = list(self._wrong(case, answer, said, before, root))
            if wrong:
                self.faults.append((case, words, answer, wrong, said))
            return wrong
        finally:
            _remove(root)

    def _wrong(self, case, answer, said, before, root):
        text = (said["stdout"] + said["stderr"]).replace(b"\0", b"").decode("utf-8", "replace")
        if answer["code"] is None:
            yield "hangs"
        elif answer["code"] not in CODES[case.words[0]]:
            yield f"exit code {answer['code']}"
        elif answer["code"] and not text.strip():
            yield "no word"
        if CRASHES.search(text):
            yield "traceback: " + text.strip().splitlines()[-1][:300]
        for name in said:
            if PLANTED.search(said[name]):
                yield f"secret in {name}"
        after = _listing(root)
        changed = {path for path in after.keys() | before.keys() if after.get(path) != before.get(path)}
        for path in changed:
            if path in after and PLANTED.search(_content(path)):
                yield f"secret in {path}"
        inputs, home = os.fsencode(root / "inputs") + b"/", os.fsencode(root / "home")
        for path in sorted(changed):
            if path.startswith(home):
                yield f"HOME: {path[len(home) :]}"
            elif path.startswith(inputs + b"lingo-") or path.startswith(inputs + b"relative"):
                continue  # TMPDIR is the working folder
            elif path.startswith(inputs) and (
                case.words[0] != b"sync" and b"--register" not in b" ".join(case.words)
            ):
                yield f"folder: {path[len(inputs) :]}"


def _listing(root: Path) -> dict[bytes, object]:
    """Every path below a folder but `checks` and `tmp`, with what would change."""
    found = {}
    for at, folders, names in os.walk(os.fsencode(root)):
        if at == os.fsencode(root):
            folders[:] = [name for name in folders if name != b"checks"]
        for name in [*folders, *names]:
            path = os.path.join(at, name)
            state = os.lstat(path)
            whole = stat.S_ISREG(state.st_mode)
            found[path] = (state.st_mode, state.st_size if whole else 0, state.st_mtime_ns if whole else 0)
    return found


def _content(path: bytes) -> bytes:
    if not os.path.isfile(path) or os.path.islink(path):
        return b""
    with open(path, "rb") as file:
        return file.read()


def _remove(root: Path) -> None:
    if os.geteuid():
        for at, folders, _ in os.walk(root):
            for name in folders:
                with_all = Path(at, name)
                if not with_all.is_symlink():
                    with_all.chmod(0o700)
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def fuzz():
    folder = Path(tempfile.mkdtemp(prefix="lingo-fuzz-"))
    folder.chmod(0o755)
    made = Fuzz(folder)
    yield made
    made.close()
    shutil.rmtree(folder)


def run_all(fuzz: Fuzz, count: int, number: int, shares=SHARES, **fixed) -> None:
    """Run so many cases of a seed; `fixed` are fields that all of them have."""
    suppressed = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=suppressed,
    )
    @given(cases(shares))
    def every(case):
        fuzz.check(replace(case, **fixed))

    every()
    assert not fuzz.faults, "\n".join(f"{wrong}: {case}" for case, _, _, wrong, _ in fuzz.faults[:20])


def test_some_command_lines(fuzz):
    run_all(fuzz, 60, 0, [b"best", b"plan", b"sync"], server="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", range(1, 8))
def test_many_command_lines(fuzz, number):
    fuzz.faults.clear()
    run_all(fuzz, 300, number)
