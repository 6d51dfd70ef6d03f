"""Pages of the site that stand elsewhere in the repository, with their links as they are there."""

import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "clusters/README.md": "clusters.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)#\s]*)(#[^)\s]*)?\)")


def moved(text: str, source: str) -> str:
    """A page's text as it stands in the site: links to other pages lead there, those to other files are text.

    Args:
        source: Its path in the repository.
    """

    def link(found: re.Match[str]) -> str:
        mark, words, target, anchor = found.groups()
        parts: list[str] = []
        for part in (*PurePosixPath(source).parent.parts, *PurePosixPath(target).parts):
            parts = parts[:-1] if part == ".." else [*parts, part]
        path = "/".join(parts)
        if path not in PAGES and not path.startswith("docs/"):
            return words
        return f"{mark}[{words}]({PAGES.get(path) or path.removeprefix('docs/')}{anchor or ''})"

    # Continued lines of a numbered list: GitHub indents by three spaces, Python-Markdown by four.
    return re.sub(r"(?m)^ {3}(?=\S)", "    ", LINK.sub(link, text))


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages from elsewhere."""
    for source, name in PAGES.items():
        text = moved((ROOT / source).read_text(encoding="utf-8"), source)
        files.append(File.generated(config, name, content=text))


def on_page_markdown(markdown: str, page: object, config: MkDocsConfig, files: Files) -> str:
    """Links of pages in docs/ that lead out of it."""
    source = page.file.src_uri  # type: ignore[attr-defined]
    return markdown if source in PAGES.values() else LINK.sub(_outside, markdown)


def _outside(found: re.Match[str]) -> str:
    name = found[3].removeprefix("../")
    if name == found[3]:
        return found[0]
    return f"{found[1]}[{found[2]}]({PAGES[name]}{found[4] or ''})" if name in PAGES else found[2]
