"""Every message that docs/troubleshooting.md quotes is in the code, as far as its fixed words go."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")

OTHERS = {"database is locked", "Failed to determine local IP via external connectivity"}
"""Words of libraries."""

ASSEMBLED = {
    "the store lacks deleted runs": ("; the store ", "lacks ", "deleted runs"),
    "Interrupted after": ("Interrupted", " after "),
}
"""Messages that are put together from parts that have no gap between them in the page."""

VARIES = r"…|--[a-z-]+|\b[A-Z][A-Z_]+\b|\b[NM]\b|\b\d+\b|[\w/.]*mlflow\.db[\w.-]*|(?<=[.:;)]) |[()|]|, "
"""What stands for a part that varies, and the ends of parts that may come from different places."""


def source(node):
    """The text of a string in the code; what is filled in is a gap."""
    if isinstance(node, ast.JoinedStr):
        return "".join(source(value) for value in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "\0"


@pytest.fixture(scope="module")
def code():
    texts = [
        source(node)
        for package in ("harness", "lingo")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant | ast.JoinedStr)
    ]
    return re.sub(r"[`\\]", "", "\n".join(" ".join(text.split(" ")) for text in texts))


def quoted():
    """Messages: code in the first cell of a table, and code of several words that begins as a sentence."""
    found = []
    for line in PAGE.splitlines():
        cells = re.split(r"(?<!\\) \| ", line[2:]) if line.startswith("| ") else []
        spans = re.findall(r"`` ?(.+?) ?``|`([^`]+)`", cells[0] if cells else "")
        found += [(one or two).replace("`", "").replace("\\|", "|") for one, two in spans]
    prose = " ".join(line for line in PAGE.splitlines() if not line.startswith("|"))
    found += re.findall(r"`([A-Z][a-z]+ [^`]+)`", prose)
    return sorted(set(found))


def parts(message):
    """Its fixed parts of at least two words."""
    pieces = [piece.strip(" .,;:'/") for piece in re.split(VARIES, message)]
    return [piece for piece in pieces if len(piece.split()) >= 2]


def said(part, code):
    """Whether the code has it; what begins a sentence may be a part of one there."""
    return part in code or part[0].lower() + part[1:] in code


def lacking(message, code):
    if message.rstrip(" …") in ASSEMBLED:
        return [part for part in ASSEMBLED[message.rstrip(" …")] if part not in code]
    return [part for part in parts(message) if not said(part, code) and not {part, message} & OTHERS]


def test_there_are_messages_for_each_kind_of_trouble():
    for words in ("scores are 0.000", "of memory", "to be had from the hub", "Ray does not start"):
        assert words in PAGE
    assert len(quoted()) > 75 and sum(bool(parts(message)) for message in quoted()) > 70


@pytest.mark.parametrize("message", quoted())
def test_a_quoted_message_is_in_the_code(code, message):
    assert lacking(message, code) == []


def test_a_message_that_nobody_says_is_found(code):
    assert lacking("out of memory with N elephants at once; continuing with N", code) == ["elephants at once"]
