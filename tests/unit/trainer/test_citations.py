"""Comments and docstrings cite only papers, and documents of this repository."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PARTS = ("services", "environments", "sandbox", "client", "proto", "examples", "configs")
SOURCES = sorted(
    path
    for part in PARTS
    for path in (ROOT / part).rglob("*")
    if path.suffix in (".py", ".toml") and "build" not in path.parts
)


def cited(text: str) -> list[str]:
    """Return the documents under docs/ that the text names: files, or decisions (ADR) by number."""
    return re.findall(r"(?<![\w/])docs/(?:adr/\d{4}|[\w/-]+\.md)", text)


@pytest.mark.parametrize("part", PARTS)
def test_documents_that_sources_cite_exist(part: str) -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in SOURCES if path.is_relative_to(ROOT / part)}
    assert texts
    missing = [
        (str(path.relative_to(ROOT)), name)
        for path, text in texts.items()
        for name in cited(text)
        if not list(ROOT.glob(name if name.endswith(".md") else f"{name}-*.md"))
    ]
    assert missing == []
    internal = [
        str(path.relative_to(ROOT))
        for path, text in texts.items()
        if re.search(r"\(reference: \w|\balgorithms, section \d|shared/(design|reference)", text)
    ]
    assert internal == []


def test_citations_are_found_in_a_text() -> None:
    assert cited("see docs/adr/0010, docs/how-to/train.md; docs/ and doc/x.md, https://example.org/docs/y.md") == [
        "docs/adr/0010",
        "docs/how-to/train.md",
    ]
