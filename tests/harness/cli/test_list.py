"""`list`: what may be named."""

import json

import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.config.benchmark import METRICS
from harness.data.suites import NAMED, OUTSIDE
from harness.data.tasks import SUITES, TASKS
from lingo.known_models import KNOWN
from lingo.methods import METHODS
from lingo.metrics import RANGES


def told(*arguments):
    result = CliRunner().invoke(app, ["list", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    ("what", "known"),
    [
        ("models", KNOWN),
        ("tasks", TASKS | NAMED),
        ("suites", SUITES | OUTSIDE),
        ("methods", METHODS),
        ("metrics", RANGES),
    ],
)
def test_every_name_is_listed_once(what, known):
    rows = json.loads(told(what, "--json"))
    assert [row["name"] for row in rows] == list(known)
    first = [line.split()[0] for line in told(what).splitlines() if line.strip()]
    assert [name for name in first if name in known] == list(known)


def test_a_row_says_licence_context_and_what_is_unverified():
    line = next(line for line in told("models").splitlines() if line.startswith("gena-lm-bigbird-base"))
    assert (
        "AIRI-Institute/gena-lm-bigbird-base-t2t" in line and "4,096" in line and "unverified offline" in line
    )


def test_suites_and_metrics_say_what_they_are():
    suites = {row["name"]: row for row in json.loads(told("suites", "--json"))}
    assert suites["gue"]["tasks"] == 28 and "virus" in suites["gue"]["families"]
    metrics = {row["name"]: row for row in json.loads(told("metrics", "--json"))}
    assert (metrics["mse"]["better"], metrics["mse"]["kinds"]) == ("lower", ["regression"])
    assert (metrics["mcc"]["lowest"], metrics["mcc"]["highest"]) == (-1.0, 1.0)
    assert all(row["kinds"] for row in metrics.values())
    chosen = {name for name, row in metrics.items() if row["can_be_chosen"]}
    assert chosen == set(METRICS) and {"ece", "loss"} <= set(metrics) - chosen


def test_another_word_is_refused():
    result = CliRunner().invoke(app, ["list", "model"])
    assert result.exit_code == 2 and "models, tasks, suites, methods, metrics" in result.output
