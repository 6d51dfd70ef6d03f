"""Which packs are calibrated."""

from types import SimpleNamespace

import pytest
from rich.console import Console

from harness.pipeline import pack_size as module
from harness.pipeline.pack_size import pack_size
from harness.pipeline.phases import timed
from tests.support.studies import prepared_study

TWO_GROUPS = SimpleNamespace(layout=SimpleNamespace(groups=2))


@pytest.mark.parametrize(
    ("given", "most"),
    [
        ({}, 4),
        ({"pack": 3}, None),
        ({"deterministic": True}, None),
        ({"num_samples": 7}, None),  # fewer than two packs of two for each worker group
        ({"max_concurrent": 2}, None),
        ({"max_concurrent": 3}, 2),  # few at once, but many in all
    ],
)
def test_packs_are_calibrated_if_there_are_trials_for_two(tmp_path, monkeypatch, given, most):
    measured = []
    monkeypatch.setattr(module, "_best_pack", lambda study, asked, machine, most: measured.append(most) or 2)
    usual = {"num_samples": 8, "max_concurrent": None, "deterministic": False, "pack": None}
    benchmark = SimpleNamespace(**usual | given)
    size = pack_size([prepared_study(tmp_path)], benchmark, TWO_GROUPS, Console(quiet=True), None)
    assert measured == ([] if most is None else [most])
    assert size == (2 if measured else given.get("pack", 1))


def test_a_phase_has_a_line_with_its_seconds_unless_it_fails(capsys):
    console = Console(width=80)
    with timed(console, "Data prepared"):
        pass
    assert capsys.readouterr().out.startswith("Data prepared in 0.")
    with pytest.raises(ValueError, match="bad row"), timed(console, "Data prepared"):
        raise ValueError("bad row")
    assert capsys.readouterr().out == ""
