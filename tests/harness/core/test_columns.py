"""Tables of text: within the width, every name whole, nothing left out in silence."""

from hypothesis import given
from hypothesis import strategies as st

from harness.core.columns import HEADER, Column, cells, fitted, without_common

COLUMNS = (
    Column(title="task", name=True),
    Column(title="backbone", name=True),
    Column(title="score", right=True),
    Column(title="trained", right=True, rank=1),
)
ROWS = [
    ["prom/core_tata", "stories260K", "0.512 ± 0.010", "46,370"],
    ["prom/300_all", "stories260K", "0.4", "1"],
]


def texts(width=None):
    return [text for text, _ in fitted(COLUMNS, ROWS, width)]


def test_without_a_limit_everything_is_in_columns():
    found = fitted(COLUMNS, ROWS)
    assert [row for _, row in found] == [HEADER, None, 0, 1]
    assert found[0][0].split() == ["task", "backbone", "score", "trained"]
    assert len({len(text) for text, _ in found}) == 1


def test_what_is_said_once_makes_room_first_then_columns_go_and_then_rows_are_blocks():
    assert "backbone: stories260K" in texts(45)[0] and "46,370" in "\n".join(texts(45))
    assert (
        "task: prom/…" in texts(33)
        and "core_tata" in "\n".join(texts(33))
        and "46,370" in "\n".join(texts(33))
    )
    assert "Not shown for lack of width: trained." in " ".join(texts(26))
    assert texts(20)[2:4] == ["core_tata", "  score 0.512 ± 0.010"]


@given(
    st.lists(st.tuples(*[st.text("abc/界", min_size=1, max_size=30)] * 4), min_size=1, max_size=5),
    st.integers(20, 120),
)
def test_no_line_is_wider_than_the_terminal_unless_one_word_is(rows, width):
    """A name may be wider than the terminal: it stands whole, alone on its line."""
    room = max([width, *(cells(text) + 12 for row in rows for text in row if cells(text) + 12 > width)])
    for text, _ in fitted(COLUMNS, rows, width):
        assert cells(text) <= room
    joined = "".join(text for text, _ in fitted(COLUMNS, rows, width))
    assert all(row[0].rpartition("/")[2] in joined for row in rows)


def test_common_folders_of_names():
    assert without_common(["prom/a", "prom/b"]) == ("prom/", ["a", "b"])
    assert without_common(["prom/a", "prim/b"]) == ("", ["prom/a", "prim/b"])
    assert without_common(["a/b"]) == ("", ["a/b"])
    assert without_common(["a/b/c", "a/b/cd", "a/x"]) == ("a/", ["b/c", "b/cd", "x"])
