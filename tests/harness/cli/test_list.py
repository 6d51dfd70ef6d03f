"""`list`: what may be named."""

import json

import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.data.tasks import TASKS
from lingo.known_models import KNOWN
from lingo.methods import METHODS


def told(*arguments):
    result = CliRunner().invoke(app, ["list", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(("what", "known"), [("models", KNOWN), ("tasks", TASKS), ("methods", METHODS)])
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


def test_another_word_is_refused():
    result = CliRunner().invoke(app, ["list", "model"])
    assert result.exit_code == 2 and "models, tasks or methods" in result.output
