"""The doctor: what is well, what is not, and what to do about it."""

import shutil
import sys

import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.data.quickstart import make_backbone
from harness.doctor import checks


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No test asks the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_backbone(tmp_path_factory.mktemp("doctor") / "model")


def consult(*arguments, ray=False):
    """(exit code, output) of the command."""
    options = [str(argument) for argument in arguments] + ([] if ray else ["--no-ray"])
    result = CliRunner().invoke(app, ["doctor", *options])
    assert "Traceback" not in result.output
    return result.exit_code, result.output


def write_task(folder, name="mouse/2", **replaced):
    for split, letter in (("train", "A"), ("dev", "C"), ("test", "G")):
        path = folder / name / f"{split}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(replaced.get(split, f"sequence,label\n{letter}ACGT,0\n{letter}TTGT,1\n"))


def line_of(output, word):
    """The line of a failure and its advice."""
    lines = output.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("fail") and word in line)
    return lines[at], lines[at + 1].strip()


def test_a_healthy_machine(tmp_path, model):
    write_task(tmp_path / "gue")
    out = tmp_path / "new" / "results"
    code, output = consult(
        "--models", model, "--data-dir", tmp_path / "gue", "--tasks", "mouse/2", "--out", out
    )
    assert code == 0, output
    assert "all tensors verified; up to" in output and "; untrained" in output
    assert "mouse/2 in" in output
    assert "torch 2." in output
    assert output.rstrip().endswith("All requirements are met.")
    assert not out.parent.exists()


def test_extras_are_notes(tmp_path, monkeypatch):
    for library in ("peft", "bitsandbytes"):
        monkeypatch.setitem(sys.modules, library, None)
    code, output = consult("--out", tmp_path)
    assert code == 0, output
    assert "note extra     methods lokr, loha: needs the library peft" in output
    assert "note extra     --frozen 4bit: needs the library bitsandbytes" in output


def test_without_data_and_models_it_only_notes(tmp_path):
    code, output = consult("--out", tmp_path)
    assert code == 0, output
    assert "0 of 29 tasks are in the hub cache" in output
    assert "none given" in output


def test_every_failure_is_named_with_advice(tmp_path, model):
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    next(broken.glob("*.safetensors")).write_bytes(b"")
    write_task(tmp_path / "gue", dev="sequence,label\nAXGT,0\n")
    models = f"{model},{broken},opt-125m,{tmp_path / 'nowhere'}"
    code, output = consult(
        "--models", models, "--data-dir", tmp_path / "gue", "--tasks", "mouse/2,EMP/H3", "--out", tmp_path
    )
    assert code == 1
    assert "holds no bytes" in line_of(output, str(broken))[0]
    text, advice = line_of(output, "opt-125m")
    assert "HF_HUB_OFFLINE is set" in text and advice.startswith("copy its folder from")
    assert line_of(output, "nowhere")[1]
    assert "dev.csv, line 2" in line_of(output, "'X' at position 2")[0]
    assert "there is none" in line_of(output, "EMP/H3")[0]
    assert output.rstrip().endswith("5 problems found.")


def test_missing_tasks_are_listed_and_bad_ones_found_without_naming_any(tmp_path):
    write_task(tmp_path / "gue")
    write_task(tmp_path / "gue", "emp_H3", train="")
    code, output = consult("--data-dir", tmp_path / "gue", "--out", tmp_path)
    assert code == 1
    assert "is empty" in line_of(output, "emp_H3")[0]
    assert "2 of 29 tasks are in" in output
    assert consult("--data-dir", tmp_path / "nothing", "--out", tmp_path)[0] == 1


def test_an_unknown_task_is_bad_input(tmp_path):
    code, output = consult("--tasks", "EMP/H33", "--out", tmp_path)
    assert code == 2
    assert "Nearest known: EMP/H3" in output


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    found = list(checks.folders(tmp_path / "out"))
    assert [finding.state for finding in found] == ["fail"] * 3
    assert "Permission denied" in found[0].text and "--out" in found[0].advice


def test_versions_are_compared(monkeypatch):
    monkeypatch.setattr(
        checks, "_requirements", lambda: [("numpy", ">=999"), ("no-such-thing", ">=1"), ("torch", "")]
    )
    found = {finding.state: finding for finding in checks.versions() if finding.about == "packages"}
    assert "numpy" in found["fail"].text and "(>=999)" in found["fail"].text
    assert "no-such-thing (missing, >=1)" in found["fail"].text
    assert found["fail"].advice.startswith(checks.sys.executable)
    assert found["ok"].text.startswith("torch ")


def test_the_projects_own_requirements_are_met():
    assert len(checks._requirements()) > 10
    assert all(finding.state == "ok" for finding in checks.versions())


@pytest.mark.ray
def test_ray_starts():
    (found,) = checks.ray_starts()
    assert found.state == "ok", found


def test_ray_that_hangs_or_dies(monkeypatch):
    monkeypatch.setattr(checks, "RAY_S", 0.01)
    (found,) = checks.ray_starts()
    assert (found.state, "no answer" in found.text) == ("fail", True)
    monkeypatch.setattr(checks, "RAY_S", 60.0)
    monkeypatch.setattr(checks, "RAY_PROGRAM", "import no_such_module")
    (found,) = checks.ray_starts()
    assert found.state == "fail" and "No module named 'no_such_module'" in found.text


@pytest.mark.parametrize("name", ["[/]", "a b", "x" * 200, "a/b/c"])
def test_a_backbone_whose_name_is_none_of_the_hub_is_a_finding(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = checks._backbone(name)
    assert found.state == "fail" and name in found.text


def test_what_becomes_of_each_file_with_each_backbone(tmp_path, model):
    bases = ["ACGT"[i % 4] + "ACGTTGCA" * (2 if i else 120) + "ACGT"[i // 4 % 4] for i in range(12)]
    table = "sequence,label\n" + "".join(f"{text},{i % 2}\n" for i, text in enumerate(bases))
    write_task(tmp_path / "gue", train=table)
    code, output = consult("--models", model, "--tasks", "mouse/2", "--data-dir", tmp_path / "gue")
    line = next(line for line in output.splitlines() if "reading" in line)
    assert code == 0 and line.startswith("note") and "mouse/2 with model: " in line
    for word in ("tokens a sequence", "8% of 12 rows cut to 256", "0.1 GiB", "an epoch of LoRA at least"):
        assert word in line, word
