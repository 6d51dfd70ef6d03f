"""A small run of the whole program gives what `tests/reference/run_golden.json` holds."""

import copy
import json

import pytest

from tests.reference.run_golden import FILE, SHOWN, TOLERANCE, check, differences, read, run, summary

TRIAL = "quickstart/promoter|quickstart-opt|lora/trial-0000"
FINAL = "quickstart/promoter|quickstart-opt|lora/final/seed-0"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_gives_the_golden_results(tmp_path):
    run(tmp_path / "run", tmp_path / "report")
    how, lines = check(read(tmp_path / "run", tmp_path / "report"))
    print(how)
    assert not lines, f"{how}\n{summary(lines)}"


@pytest.fixture
def golden():
    return json.loads(FILE.read_text())["run"]


def planted(golden, *path, value=None):
    """The golden run with another value at a path, or without it."""
    changed = copy.deepcopy(golden)
    *parents, name = path
    place = changed
    for parent in parents:
        place = place[parent]
    if value is None:
        del place[name]
    else:
        place[name] = value
    return changed


STUDY = "quickstart/promoter|quickstart-opt|ars"
LOSS = ("records", TRIAL, "history", 0, "dev", "loss")
RUN = f"quickstart/promoter · quickstart-opt · lora / {TRIAL.rsplit('/', 1)[1]}"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("records", TRIAL), None),
        (("records", TRIAL, "config", "learning_rate"), 3.0000000000000004e-05),
        (("records", TRIAL, "config_hash"), "other"),
        (("records", TRIAL, "facts", "total_parameters"), 1),
        (("records", FINAL, "test", "mcc"), None),
        (("studies", STUDY, "space", "leaves", "p", "high"), 0.4),
        (("plan", "settings", "patience"), 11),
        (("benchmark", "digest"), "other"),
        (("mlflow", "runs", RUN), None),
        (("mlflow", "runs", RUN, "metrics"), "dev_loss"),
        (("mlflow", "runs", RUN, "tags", "family"), None),
        (("report", "costs", "columns"), "backbone, method"),
        (("weights", "quickstart_promoter/quickstart-opt/lora/seed-0/head.safetensors"), None),
    ],
)
def test_what_every_machine_repeats_is_compared_everywhere(golden, path, value):
    changed = planted(golden, *path, value=value)
    for exact in (True, False):
        lines = differences(golden, changed, exact=exact)
        assert lines and all(line.startswith(" > ".join(map(str, path))) for line in lines)
    assert differences(golden, golden, exact=True) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("records", FINAL, "test", "mcc"), 0.9),
        (("records", FINAL, "config", "learning_rate"), 0.004),
        (("records", TRIAL, "history", 3), None),
        (("records", TRIAL, "status"), "stopped"),
        (("predictions", FINAL), "sha256 0"),
        (("report", "edges"), None),
    ],
)
def test_what_rounding_decides_is_compared_on_the_same_kind_of_machine_alone(golden, path, value):
    changed = planted(golden, *path, value=value)
    assert differences(golden, changed, exact=True)
    assert differences(golden, changed, exact=False) == []


def test_the_first_losses_are_compared_everywhere_within_a_tolerance(golden):
    first = golden["records"][TRIAL]["history"][0]["dev"]["loss"]
    near, far = (planted(golden, *LOSS, value=first + by * TOLERANCE) for by in (0.5, 2))
    assert len(differences(golden, near, exact=True)) == 1
    assert differences(golden, near, exact=False) == []
    (line,) = differences(golden, far, exact=False)
    assert repr(first) in line and repr(first + 2 * TOLERANCE) in line


def test_the_first_differences_are_told(golden):
    lines = differences(golden, planted(golden, "mlflow"), exact=True)
    told = summary(lines).splitlines()
    assert told[0] == f"{len(lines)} differences" and told[1:-1] == lines[:SHOWN]
    assert told[-1] == f"and {len(lines) - SHOWN} more"


def test_the_golden_file_outlives_moved_modules():
    text = FILE.read_text()
    assert "harness" not in text and ".py" not in text
