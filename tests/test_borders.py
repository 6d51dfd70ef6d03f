"""Who may import whom, proved in a fresh interpreter; and that the proof can fail."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SERVICE = ("ray", "mlflow", "optuna")


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
    "module", ["harness.report", "harness.reporting.build", "harness.cli", "harness.plan", "harness.run"]
)
def test_the_light_rooms_import_no_heavy_service(module):
    assert intruders([module], SERVICE) == []


def test_the_proof_can_fail():
    assert "optuna" in intruders(["lingo.trial", "optuna"], (*SERVICE, "harness"))
    assert "harness" in intruders(["lingo.trial", "harness.errors"], (*SERVICE, "harness"))


def test_ray_optuna_and_mlflow_stay_in_their_rooms():
    rooms = {
        "ray": {
            "search",
            "searcher",
            "schedulers",
            "in_order",
            "tuner",
            "controller",
            "pool",
            "ray_here",
            "supervisor",
            "group",
            "client",
            "cluster",
            "calibration",
            "number_types",
        },
        "optuna": {"proposals", "sampling", "importance"},
        "mlflow": {"best", "registry"} | {file.stem for file in (ROOT / "harness").glob("tracking*.py")},
    }
    rooms["ray"] |= {file.stem for file in (ROOT / "harness").glob("cluster_*.py")} | {"shipping"}
    for file in (ROOT / "harness").rglob("*.py"):
        for line in file.read_text(encoding="utf-8").splitlines():
            words = line.split()
            package = words[1].split(".")[0] if words[:1] in (["import"], ["from"]) and len(words) > 1 else ""
            assert file.stem in rooms.get(package, {file.stem}), f"{file.name}: {line.strip()}"
