"""Bad input through the real command: a clear line for each problem, exit code 2, nothing written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from harness.cli.main import app
from tests.support.task_files import listing, write_task

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def data_dir(tmp_path):
    write_task(tmp_path / "gue")
    return tmp_path / "gue"


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test asks the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def model(shared):
    return shared / "models" / "stories260K"


@pytest.fixture
def refused(tmp_path):
    """Runs the command, asserts how it refuses, and returns the lines it printed."""

    def run(*arguments, out=None):
        out = out or tmp_path / "out"
        before = listing(tmp_path)
        result = CliRunner().invoke(app, [*map(str, arguments), "--out", str(out)])
        assert result.exit_code == 2, result.output
        assert "Traceback" not in result.output
        assert listing(tmp_path) == before
        first, *lines = result.stderr.splitlines()
        assert first == f"{len(lines)} problem{'s' if len(lines) > 1 else ''}; nothing was started:"
        return [line.strip() for line in lines]

    return run


def usual(data_dir, model, **changed):
    options = {"tasks": "mouse/2", "models": model, "methods": "lora", "data-dir": data_dir} | changed
    return [part for name, value in options.items() if value is not None for part in (f"--{name}", value)]


def test_missing_split(refused, tmp_path, model):
    write_task(tmp_path / "bad", dev=None)
    (line,) = refused(*usual(tmp_path / "bad", model))
    assert str(tmp_path / "bad" / "mouse" / "2" / "dev.csv") in line and "missing" in line


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        ("seq,lab\nACGT,1\n", "train.csv, line 1:", "`sequence` and `label`, but are seq, lab"),
        ("", "train.csv:", "empty"),
        ("sequence,label\nACGT,0\nACXT,1\n", "train.csv, line 3:", "'X' at position 3"),
        ("sequence,label\nACGT,0\nACGT,2\n", "train.csv, line 3:", "from 0 to 1, but got '2'"),
    ],
)
def test_bad_rows(refused, tmp_path, model, text, where, says):
    write_task(tmp_path / "bad", train=text)
    (line,) = refused(*usual(tmp_path / "bad", model))
    assert where in line and says in line


def test_n_and_lower_case_are_accepted(tmp_path, model):
    from harness.config.build import build
    from harness.config.plan import plan

    rows = "".join(f"acgtN{'ACGT' * 4},{row % 2}\n" for row in range(40))
    write_task(tmp_path / "gue", train=f"sequence,label\n{rows}")
    benchmark = build({"tasks": ("mouse/2",), "models": (str(model),), "data_dir": tmp_path / "gue"})
    assert {study.train_rows for study in plan(benchmark).studies} == {40}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"tasks": "EMP/H33"}, "`--tasks` must name known tasks, but got 'EMP/H33'. Nearest known: EMP/H3"),
        ({"methods": "lorra"}, "`--methods` must name known methods, but got 'lorra'. Nearest known: lora"),
        ({"methods": "lora,"}, "`--methods` must have a value before and after each comma, but got 'lora,'."),
        ({"epochs": 0}, "`--epochs` must be at least 1, but got 0."),
        ({"seeds": "1,1"}, "`--seeds` must differ from each other, but got 1,1."),
        ({"seeds": "a"}, "`--seeds` must be whole numbers like 0,1,2, but got 'a'."),
        ({"limit": 0}, "`--limit` must be at least 1, but got 0."),
        ({"suite": "gue"}, "`--suite` and `--tasks` exclude each other"),
        (
            {"tasks": None, "suite": "guee"},
            "`--suite` must be a known suite, but got 'guee'. Nearest known: gue",
        ),
        ({"models": None}, "`--models` is needed"),
        ({"data-dir": None}, "`--data-dir` is needed for mouse/2"),
        ({"workers-per-trial": 9}, "`--workers-per-trial` must be at most `--batch-size`, but got 9 and 8."),
    ],
)
def test_options(refused, data_dir, model, changed, says):
    (line,) = refused(*usual(data_dir, model, **changed))
    assert line.startswith(says)


def test_unknown_model(refused, data_dir):
    (line,) = refused(*usual(data_dir, "opt-125n"))
    assert line.startswith("`--models`: ") and "opt-125m" in line


def test_folder_without_weights(refused, tmp_path, data_dir, model):
    shutil.copytree(model, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    (line,) = refused(*usual(data_dir, tmp_path / "model"))
    assert line.startswith(f"`--models`: {tmp_path / 'model'}") and "weights" in line


def space(tmp_path, text):
    path = tmp_path / "space.yaml"
    path.write_text(f"method: ars\nspace:\n{text}")
    return path


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "  learning_rat: 0.1\n",
            "line 3: unknown search-space key `learning_rat`. Nearest known: learning_rate",
        ),
        ("  b0: 4\n  bT: 8\n", "line 3: `b0` must be at least `bT`, but got b0=4, bT=8."),
        ("  delta_T: 5000\n", "but got delta_T=5000"),
    ],
)
def test_search_space_file(refused, tmp_path, data_dir, model, text, says):
    path = space(tmp_path, text)
    (line,) = refused(*usual(data_dir, model, methods="ars"), "--search-space", path)
    assert line.startswith(str(path)) and says in line


def test_search_space_of_no_method(refused, tmp_path, data_dir, model):
    path = space(tmp_path, "  p: 0.1\n")
    (line,) = refused(*usual(data_dir, model), "--search-space", path)
    assert line == f"{path}: is a search space of ars, which `--methods` does not name."


def test_two_search_spaces_of_one_method(refused, tmp_path, data_dir, model):
    path = space(tmp_path, "  delta_T: 5\n")
    (line,) = refused(*usual(data_dir, model, methods="ars"), "--search-space", path, "--search-space", path)
    assert line == f"{path}: is a second search space of ars, beside {path}."


def test_a_training_that_is_too_short_to_allocate(refused, data_dir, model):
    (line,) = refused(*usual(data_dir, model, methods="adalora", limit=8, epochs=1))
    assert "steps" in line and "mouse/2: 8 rows, batch size 8, epochs 1" in line


def test_output_folder_of_another_benchmark(refused, tmp_path, data_dir, model):
    from harness.config.build import build
    from harness.config.plan import plan
    from harness.runs.store import ResultStore

    out = tmp_path / "results"
    options = {"tasks": ("mouse/2",), "models": (str(model),), "methods": ("lora",), "data_dir": data_dir}
    checked = plan(build({**options, "epochs": 5}))
    ResultStore(out, checked.identity)
    assert json.loads((out / "benchmark.json").read_text())["digest"]
    (line,) = refused(*usual(data_dir, model, epochs=4), out=out)
    assert "`--out`" in line and str(out) in line and "epochs" in line
    assert plan(build({**options, "epochs": 5, "out": out})).out == out


def test_output_that_is_a_file(refused, tmp_path, data_dir, model):
    (tmp_path / "file").write_text("")
    (line,) = refused(*usual(data_dir, model), out=tmp_path / "file")
    assert line.startswith("`--out` must be a folder")


def test_all_problems_at_once(refused, tmp_path):
    write_task(tmp_path / "bad", train="sequence,label\nACGT,7\n", test=None)
    lines = refused(
        *usual(tmp_path / "bad", tmp_path / "none", methods="ars"),
        "--search-space",
        space(tmp_path, " p: 9\n"),
    )
    assert len(lines) >= 3
    assert all(any(part in line for line in lines) for part in ("space.yaml", "test.csv", "`--models`"))


def test_the_command_itself_refuses_without_a_traceback(tmp_path):
    command = [sys.executable, str(ROOT / "run_benchmark.py"), "--tasks", "nothing/here"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "--tasks" in done.stderr and "--models" in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def given_values():
    """Every option of every command that takes a value, and every argument."""
    for name, command in get_command(app).commands.items():
        before: list[str] = []
        for one in command.params:
            if one.param_type_name == "argument":
                yield pytest.param(name, [*before], one.metavar.strip("[]."), id=f"{name} {one.name}")
                before.append("x")
            elif not one.is_flag:
                option = max(one.opts, key=len)
                yield pytest.param(name, [option], option, id=f"{name} {option}")


@pytest.mark.parametrize(("command", "option", "shown"), list(given_values()))
def test_a_value_that_is_given_and_empty_is_refused(tmp_path, monkeypatch, command, option, shown):
    monkeypatch.chdir(tmp_path)
    for empty in ("", "  ", ","):
        result = CliRunner().invoke(app, [command, *option, empty])
        assert result.exit_code == 2, result.output
        lines = [line.strip() for line in result.stderr.splitlines()[1:]]
        lacking = [line for line in lines if "must be given" in line]
        assert [line for line in lines if line not in lacking] == [
            line for line in lines if "is empty" in line
        ]
        assert any(line.startswith(f"`{shown}` must have a value, but is empty") for line in lines), lines
        assert len(lines) - len(lacking) == 1 and list(tmp_path.iterdir()) == []


def test_each_empty_value_is_told_and_the_default_command_looks_too():
    result = CliRunner().invoke(
        app, ["--tasks=", "--out", "", "--search-space", "a.yaml", "--search-space", ""]
    )
    assert result.exit_code == 2
    told = [line.split("`")[1] for line in result.stderr.splitlines()[1:] if "is empty" in line]
    assert told == ["--tasks", "--search-space", "--out"]


@pytest.mark.parametrize("name", ["tasks", "suite", "models", "methods", "seeds"])
def test_empty_settings_from_python_are_refused_too(name):
    from harness.config.build import build
    from harness.core.errors import InputError

    with pytest.raises(InputError, match=f"`--{name}`"):
        build({name: "" if name == "suite" else ()})


def test_help_is_a_short_page_of_all_commands():
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80"})
    assert result.exit_code == 0 and len(result.output.splitlines()) <= 60
    for name in get_command(app).commands:
        assert f"  {name} " in result.output
    assert max(map(len, result.output.splitlines())) <= 80
    assert "quickstart" in result.output and "run --help" in result.output


def test_the_help_of_all_commands_and_the_version_import_no_library(tmp_path):
    program = (
        "import sys\nfrom harness.cli.main import main\ntry:\n    main([sys.argv[1]])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'typer', 'rich', 'pydantic', 'torch', 'numpy', 'pyarrow', 'ray'} & set(sys.modules)))"
    )
    for word in ("--help", "-h", "--version"):
        done = subprocess.run(
            [sys.executable, "-c", program, word], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
        assert "lingo-bench" in done.stdout


def test_every_option_has_a_readable_kind_of_value():
    for words in [["run"], ["report"], ["best"], ["export"], ["list", "runs"], ["compare"]]:
        result = CliRunner().invoke(app, [*words, "--help"], terminal_width=200)
        assert result.exit_code == 0 and "list[" not in result.output, result.output


@pytest.mark.parametrize("wrong", ["show", "status", "best", "report", "sync", "ui", "resume", "export"])
def test_a_wrong_folder_is_told_without_torch(tmp_path, wrong):
    program = (
        "import sys\nfrom harness.cli.main import main\ntry:\n    main(sys.argv[1:])\n"
        "finally:\n    print('torch' in sys.modules)"
    )
    words = [wrong, str(tmp_path / "none")] + (
        ["--task", "a/b", "--method", "lora"] if wrong == "export" else []
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2 and str(tmp_path / "none") in done.stderr and "Traceback" not in done.stderr
    assert done.stdout.splitlines()[-1] == "False"


def test_all_mistakes_of_a_command_line_are_told_in_one_round(refused, tmp_path):
    lines = refused(
        *("--epochs", "three", "--taks", "x", "--seeds", "a", "--methods", "lora,lorra", "--batch-size", "0"),
        *(
            "--tasks",
            "prom/prom_core_tata,EMP/H33",
            "--data-dir",
            tmp_path / "none",
            "--models",
            tmp_path / "no",
        ),
    )
    for part in (
        "`--taks`",
        "`--epochs`",
        "`--seeds`",
        "`--methods`",
        "`--batch-size`",
        "`--tasks`",
        "`--models`",
    ):
        assert sum(line.startswith(part) for line in lines) == 1, (part, lines)
    assert any(str(tmp_path / "none") in line for line in lines) and len(lines) == 8


@pytest.mark.parametrize("arguments", [["run", "--help"]])
def test_help_shows_every_option_and_the_quickstart(arguments):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    for option in (
        "--tasks",
        "--suite",
        "--models",
        "--seeds",
        "--limit",
        "--tracking-uri",
        "--max-concurrent",
    ):
        assert option in result.output
    assert "quickstart" in result.output


@pytest.mark.parametrize("arguments", [["--epochs", "three"], ["rnu"], ["--taks", "x"]])
def test_usage_errors(arguments):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and "Traceback" not in result.output


def test_a_terminal_that_lacks_letters(tmp_path):
    ended = subprocess.run(
        [
            sys.executable,
            "run_benchmark.py",
            "export",
            str(tmp_path / "ünï"),
            "--task",
            "…",
            "--method",
            "lora",
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert "?n?: must be the output folder of a run" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("columns", ["0", "00", "-1", "²", "junk"])
def test_a_terminal_of_no_columns_shows_the_error(tmp_path, columns):
    ended = subprocess.run(
        [sys.executable, str(ROOT / "run_benchmark.py"), "plan", "--epochs", "2147483648"],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": columns, "FORCE_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 2 and "--epochs" in ended.stderr
