"""Long steps on data: nothing of short ones, a line at once and then fewer, and no bar that stays."""

import io

from rich.console import Console

from harness.data.steps import heard_by, tell
from harness.progress.steps import Steps


def shown(steps, *, terminal=False):
    """What is written of steps, each with the seconds at which it is told."""
    text, now = io.StringIO(), [0.0]
    console = Console(file=text, width=80, force_terminal=terminal)
    with Steps(console, clock=lambda: now[0]) as listener, heard_by(listener):
        for seconds, *step in steps:
            now[0] = seconds
            tell(*step)
    tell("nobody listens any more", 1, 2)
    return text.getvalue()


def test_a_short_step_is_not_shown():
    assert shown([(0.0, "reading a.csv", 1, 2), (0.4, "reading a.csv", 2, 2)]) == ""
    assert shown([(0.0, "a", 1, 2), (0.4, "a", 2, 2), (0.6, "b", 1, 2)], terminal=True) == ""


def test_lines_come_within_a_second_and_then_ever_fewer():
    steps = [(second / 10, "reading a.csv", second, 1200) for second in range(1, 1201)]
    lines = shown([(0.0, "reading a.csv", 0, 1200), *steps]).splitlines()
    assert lines[0].split() == ["0", "s", "reading", "a.csv", "0%,", "about", "2", "min", "left"]
    assert 6 <= len(lines) <= 12
    assert lines[-1].split() == ["2", "min", "reading", "a.csv", "100%"]


def test_each_step_has_lines_of_its_own():
    steps = [
        (0, "reading a.csv", 0, 9),
        (1, "reading a.csv", 5, 9),
        (2, "own/a train", 0, 9),
        (3, "own/a train", 5, 9),
    ]
    assert [line.split()[2] for line in shown(steps).splitlines()] == ["reading", "own/a"]


def test_a_bar_on_a_terminal_goes_when_the_step_ends():
    steps = [(0, "reading [a].csv", 0, 9), (1, "reading [a].csv", 5, 9), (2, "reading [a].csv", 9, 9)]
    text = shown(steps, terminal=True)
    assert "reading [a].csv" in text
    assert text.endswith("\x1b[1A\x1b[2K") or text.rstrip().endswith("\x1b[2K")
