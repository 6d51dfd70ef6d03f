"""The Python API on a real run folder, and the examples of its documentation."""

import doctest
import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import Run, benchmark
from harness.cluster.results_archive import extract
from harness.core.errors import InputError
from harness.pipeline.python import _settings
from harness.runs.store import ResultStore, records_of

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("api")
    with tarfile.open(ROOT / "tests" / "data" / "run_0_1_0" / "run.tar.xz") as packed:
        extract(packed, made)
    (made / "results").mkdir()
    shutil.move(made / "run", made / "results" / "quickstart")
    return made


def test_the_examples_of_the_documentation_run(folder, monkeypatch):
    monkeypatch.chdir(folder)
    done = doctest.testfile(str(ROOT / "docs" / "python.md"), module_relative=False)
    assert done.failed == 0 and done.attempted > 5


def test_tables_have_configurations_as_columns(folder):
    run = Run(folder / "results" / "quickstart")
    trials = run.trials(arrow=True)
    assert isinstance(trials, pa.Table) and "config" not in trials.schema.names
    assert pa.types.is_floating(trials.schema.field("config_learning_rate").type)
    assert not any(name.startswith("test_") for name in trials.schema.names)
    assert len(run.trials()) == 12 and len(run.results()) == 1
    curves = run.curves()
    assert set(curves["id"]) <= set(run.trials()["id"]) | set(run.results()["id"])
    assert {"epoch", "step", "seconds", "train_loss", "dev_mcc"} <= set(curves.columns)
    with pytest.raises(InputError, match="names 0"):
        run.predictions("quickstart/promoter", "lora", seed=7)
    with pytest.raises(InputError, match="RUN must be the output folder"):
        Run(folder)


def test_a_table_of_today_gives_what_one_of_the_first_version_gave(folder, tmp_path):
    old = folder / "results" / "quickstart"
    new = tmp_path / "new"
    shutil.copytree(old, new)
    config = json.loads((new / "benchmark.json").read_text())["config"]
    ResultStore(new, config)  # writes the table anew
    assert "config" in pq.read_schema(old / "results.parquet").names
    assert "config" not in pq.read_schema(new / "results.parquet").names
    for name in ("trials", "results", "curves", "best"):
        first, second = (getattr(Run(path), name)() for path in (old, new))
        pd.testing.assert_frame_equal(first, second, check_like=True, check_dtype=False)
    for first, second in zip(*(records_of(path / "results.parquet") for path in (old, new)), strict=True):
        assert dict(first.config) == dict(second.config) and first.id == second.id


def test_the_columns_of_the_table_are_those_of_the_documentation(folder, tmp_path):
    shutil.copytree(folder / "results" / "quickstart", tmp_path / "new")
    config = json.loads((tmp_path / "new" / "benchmark.json").read_text())["config"]
    ResultStore(tmp_path / "new", config)
    names = pq.read_schema(tmp_path / "new" / "results.parquet").names
    text = (ROOT / "docs" / "python.md").read_text().split("## Columns of results.parquet")[1]
    told = [
        name
        for line in text.splitlines()
        if line.startswith("| `")
        for name in re.findall("`([^`]+)`", line.split("|")[1])
    ]
    patterns = [re.compile(re.sub("<[a-z]+>", ".+", name)) for name in told]
    assert [name for name in names if not any(one.fullmatch(name) for one in patterns)] == []
    assert [
        name for name, one in zip(told, patterns, strict=True) if not any(map(one.fullmatch, names))
    ] == []


def test_a_hundred_thousand_rows_are_a_table(folder, tmp_path):
    shutil.copytree(folder / "results" / "quickstart", tmp_path / "large")
    table = pq.read_table(tmp_path / "large" / "results.parquet")
    pq.write_table(
        pa.concat_tables([table] * (100_000 // len(table) + 1)), tmp_path / "large" / "results.parquet"
    )
    assert len(Run(tmp_path / "large").trials(arrow=True)) > 90_000


def test_options_have_the_names_of_the_command_line():
    read = _settings({"tasks": "a,b", "models": ["x"], "search_space": "s.yaml", "seeds": [0, 1], "out": "o"})
    assert read == {
        "tasks": ("a", "b"), "models": ("x",), "search_spaces": (Path("s.yaml"),), "seeds": (0, 1), "out": Path("o"),
    }  # fmt: skip
    with pytest.raises(InputError, match="`epocs` is not an option of a benchmark"):
        benchmark(epocs=3)
    with pytest.raises(InputError) as caught:
        benchmark(tasks=["nothing"], models=["x"], epochs=0)
    assert len(caught.value.problems) == 2


def test_the_package_imports_nothing_before_it_is_used():
    program = (
        "import sys, harness; print(sorted({'pandas', 'pyarrow', 'torch', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
