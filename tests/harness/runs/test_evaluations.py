"""Epochs in parts: where they end, and how many there are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.runs.evaluations import LONG_EPOCH, Grid, parts_of


@pytest.mark.parametrize(
    ("steps", "asked", "parts"),
    [
        (0, None, 1),
        (1, None, 1),
        (LONG_EPOCH, None, 1),
        (LONG_EPOCH + 1, None, 2),
        (9_167, None, 3),
        (550_000, None, 17),
        (550_000, 2_000, 275),
        (1_000, 2_000, 1),
        (1_000, 300, 4),
        (7, 1, 7),
    ],
)
def test_parts_follow_from_the_steps_of_an_epoch(steps, asked, parts):
    assert parts_of(steps, asked) == parts


@given(st.integers(1, 500), st.integers(1, 40), st.integers(1, 3))
def test_every_epoch_has_its_parts_and_ends_with_one(steps, parts, epochs):
    parts = min(parts, steps)
    grid = Grid(steps, parts)
    ends = [step for step in range(1, steps * epochs + 1) if grid.due(step)]
    assert len(ends) == parts * epochs and set(range(steps, steps * epochs + 1, steps)) <= set(ends)
    gaps = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
    assert max(gaps) == grid.most and max(gaps) - min(gaps) <= 1
    assert [grid.epoch(step) for step in ends] == [number / parts for number in range(1, len(ends) + 1)]


def test_the_ends_of_epochs_are_whole_numbers_and_equal_fractions_are_equal_for_all_tasks():
    assert repr([Grid(10, 5).epoch(step) for step in (9, 10, 20)]) == "[0.8, 1, 2]"
    assert {Grid(steps, 6).epoch(-(-steps // 3)) for steps in (6, 7, 100, 9_167)} == {Grid(3, 3).epoch(1)}
