"""The documentation as a site: it builds, its links lead somewhere, and its tables are those of the code."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reference.docs_tables import TABLES, written

ROOT = Path(__file__).resolve().parents[1]
pytest.importorskip("mkdocs")


def built(root, place):
    """Build the site of a checkout; the finished process."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)],
        cwd=root,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    place = tmp_path_factory.mktemp("site")
    done = built(ROOT, place)
    assert done.returncode == 0, done.stderr
    return place


def test_every_page_is_built_and_reads_nothing_from_elsewhere(site):
    names = {path.stem for path in (ROOT / "docs").glob("*.md")}
    for name in names | {"clusters", "changelog", "contributing", "security"}:
        assert (site / name / "index.html").is_file(), name
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(
            r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//|<link[^>]+href="(?:https?:)?//', text
        ), page
    for name in ("report.png", "mlflow.png"):
        assert (site / name).is_file() and name in (site / "index.html").read_text(encoding="utf-8")


def test_code_in_numbered_lists_is_code(site):
    page = (site / "clusters" / "index.html").read_text(encoding="utf-8")
    assert re.search(r'<li>\s*<p>(?:(?!</li>).)*<div class="[^"]*highlight', page, re.DOTALL)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("docs/search.md", "[x](nowhere.md)"),
        ("docs/search.md", "[x](methods.md#nowhere)"),
        ("README.md", "[x](docs/nowhere.md)"),
        ("docs/forgotten.md", "# A page that no menu has"),
    ],
)
def test_a_link_to_nowhere_and_a_forgotten_page_are_found(tmp_path, file, line):
    root = tmp_path / "checkout"
    for name in ("docs", "clusters"):
        shutil.copytree(ROOT / name, root / name)
    for path in (*ROOT.glob("*.md"), ROOT / "mkdocs.yml"):
        shutil.copy(path, root)
    with (root / file).open("a", encoding="utf-8") as page:
        page.write(f"\n{line}\n")
    done = built(root, tmp_path / "site")
    assert done.returncode != 0 and ("nowhere" in done.stderr or "forgotten" in done.stderr), done.stderr


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_those_of_the_code(name):
    assert written(name) == TABLES[name][1](), "python -m tests.reference.docs_tables writes it"
