"""Golden losses of every method: a refactoring leaves them unchanged."""

import json

import pytest

from lingo.methods import METHODS
from tests.reference.golden import FILE, STEPS, TRIALS, golden


@pytest.mark.parametrize("name", TRIALS)
def test_losses_and_logits_are_the_golden_ones(name: str) -> None:
    expected = json.loads(FILE.read_text())[name]
    found = golden(TRIALS[name])
    assert len(expected["losses"]) == STEPS
    assert found["losses"] == pytest.approx(expected["losses"], rel=0, abs=1e-10)
    assert found["logits"] == pytest.approx(expected["logits"], rel=0, abs=1e-10)


def test_every_method_has_golden_numbers_of_its_own() -> None:
    numbers = json.loads(FILE.read_text())
    assert numbers.keys() == TRIALS.keys()
    assert {config.method for config in TRIALS.values()} == {
        name for name, row in METHODS.items() if row.engine == "pack"
    }
    assert len({tuple(entry["losses"]) for entry in numbers.values()}) == len(numbers)
