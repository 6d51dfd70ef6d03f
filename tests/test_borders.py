"""Who may import whom: by contracts in pyproject.toml, and in a fresh interpreter; and that both proofs can fail."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SERVICE = ("ray", "mlflow", "optuna")
SLOW_TO_IMPORT = (*SERVICE, "torch", "transformers", "sklearn", "scipy", "pandas", "matplotlib")


def intruders(modules, forbidden):
    """Modules of `forbidden` packages that a fresh interpreter holds after importing `modules`."""
    code = (
        f"import importlib, sys\nfor name in {list(modules)!r}: importlib.import_module(name)\n"
        f"print(*sorted(n for n in sys.modules if n.split('.')[0] in {set(forbidden)!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    return done.stdout.split()


def modules_of(package):
    """Every module of a package, by its name."""
    files = sorted((ROOT / package).rglob("*.py"))
    return [
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files
    ]


def test_lingo_imports_nothing_of_the_service():
    modules = modules_of("lingo")
    assert "lingo.pack" in modules and "lingo.methods.ars" in modules
    assert intruders(modules, (*SERVICE, "harness")) == []


@pytest.mark.parametrize(
    "module",
    [
        "harness.report.leaderboard",
        "harness.report.build",
        "harness.config.plan",
        "harness.pipeline.run",
    ],
)
def test_the_light_modules_import_no_heavy_service(module):
    assert intruders([module], SERVICE) == []


@pytest.mark.parametrize(
    "module", ["harness.cli.main", "harness.data.own_data", "harness.search.tuner"]
)  # tasks are found before an option is refused
def test_commands_and_tuners_start_without_what_takes_seconds_to_import(module):
    assert intruders([module], SLOW_TO_IMPORT) == []


def test_the_settings_of_a_run_are_checked_without_what_takes_seconds_to_import(tmp_path):
    code = (
        "import pathlib, sys\n"
        "from harness.config.build import build\nfrom harness.config.plan import plan\n"
        f"checked = plan(build({{'out': pathlib.Path({str(tmp_path)!r}) / 'out'}}))\n"
        f"print(len(checked.studies), *({set(SLOW_TO_IMPORT)!r} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["6"]


def test_the_proof_can_fail():
    assert "optuna" in intruders(["lingo.trial", "optuna"], (*SERVICE, "harness"))
    assert "harness" in intruders(["lingo.trial", "harness.core.errors"], (*SERVICE, "harness"))


def broken_contracts(folder):
    """Names of the contracts of pyproject.toml that the packages in `folder` break."""
    code = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "Contracts: " in done.stdout, done.stdout + done.stderr
    broken = {line.partition(" BROKEN")[0] for line in done.stdout.splitlines() if " BROKEN" in line}
    assert bool(broken) == bool(done.returncode), done.stdout
    return broken


def contracts():
    """Names of all contracts."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return {contract["name"] for contract in settings["tool"]["importlinter"]["contracts"]}


def test_the_contracts_hold():
    assert broken_contracts(ROOT) == set()


@pytest.fixture
def copied(tmp_path):
    """A copy of the packages and their contracts."""
    for name in ("harness", "lingo"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def plant(folder, file, line):
    """Write a line at the end of a file."""
    with (folder / file).open("a", encoding="utf-8") as end:
        end.write(f"\n{line}\n")


def test_a_planted_ray_and_a_planted_circle_are_found(copied):
    plant(copied, "harness/report/stats.py", "import ray")
    plant(copied, "harness/runs/record.py", "def late():\n    import harness.runs.store")
    circle, ray = sorted(broken_contracts(copied))
    assert circle == "No circles between packages or files" and ray.startswith("Ray only in")


def test_every_contract_can_be_broken(copied):
    (copied / "harness" / "extra").mkdir()
    (copied / "harness" / "extra" / "__init__.py").touch()  # a package without a floor
    plant(copied, "harness/workers/packs.py", "import ray")
    plant(copied, "harness/pool/pool.py", "import optuna")
    plant(copied, "harness/pipeline/run.py", "def late():\n    import mlflow")
    plant(copied, "harness/runs/record.py", "import harness.runs.store")
    plant(copied, "lingo/trial.py", "import harness.core.errors")
    assert broken_contracts(copied) == contracts()


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("harness/core/errors.py", "def late():\n    from harness.cli import main"),
        ("harness/search/driver.py", "from harness.workers import packs"),
    ],
)
def test_a_floor_imports_neither_those_above_nor_its_own(copied, file, line):
    plant(copied, file, line)
    assert any(name.startswith("Floors") for name in broken_contracts(copied))
