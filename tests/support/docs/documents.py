"""The documents of the repository as data: pages, links, headings, code spans and fenced blocks."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
# The changelog may contain names that no longer exist.
CHANGELOG = ROOT / "CHANGELOG.md"
PAGES = sorted([ROOT / "README.md", ROOT / "AGENTS.md", *DOCS.rglob("*.md")])
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """Return the text of a page without its fenced blocks."""
    return FENCE.sub("", text_of(page))


def fenced(page: Path, *languages: str) -> Iterator[str]:
    """Yield the texts of the fenced blocks in these languages, without their indentation."""
    for match in FENCE.finditer(text_of(page)):
        if match["language"] in languages:
            yield re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE)


def spans(page: Path) -> list[str]:
    """Return the texts between single backticks outside fenced blocks. A text may continue on the next line."""
    return [" ".join(text.split()) for text in re.findall(r"`([^`]+)`", prose(page))]


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings, computed like those of Python-Markdown."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        words = re.sub(r"[^\w\s-]", "", words.encode("ascii", "ignore").decode()).strip().lower()
        found.add(re.sub(r"[-\s]+", "-", words))
    return found


def links(page: Path) -> list[str]:
    """Return the targets of all links to files of the repository and to headings, without links in code."""
    text = re.sub(r"`[^`]*`", "", prose(page))
    return [target for target in LINK.findall(text) if not re.match(r"[a-z]+:", target)]
