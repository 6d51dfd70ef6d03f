"""docs/data.md names what the reader knows: every ending of a file, every name of a column, every setting."""

import re
from pathlib import Path

import pytest

from harness.data.columns import INDEX, PLACES, ROLES
from harness.data.table_files import ENDINGS, PACKED_ENDINGS
from lingo.sequences import CASES

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
ROWS = {"sequence": "sequence", "label": "classes", "target": "targets of a regression", "id": "name"}


def words(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


def test_every_ending_is_named():
    assert words(PAGE) >= {ending for ending in (*ENDINGS, *PACKED_ENDINGS) if ending}


@pytest.mark.parametrize("role", [role for role in ROLES if not role.startswith("sequence_")])
def test_every_name_of_a_column_stands_in_its_row(role):
    title = ROWS.get(role, role)
    (row,) = (line for line in PAGE.splitlines() if line.startswith(f"| {title} |"))
    assert words(row) >= set(ROLES[role])


def test_what_is_never_a_label_is_named():
    assert words(PAGE) >= {name for name in (*INDEX, *PLACES) if name}


def test_every_case_is_named():
    assert all(f"`{case}`" in PAGE or f"--case {case}" in PAGE or f"**{case}**" in PAGE for case in CASES)
