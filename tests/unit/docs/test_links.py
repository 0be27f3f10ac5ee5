"""Links of the documents lead somewhere, and each page is on the site."""

import re
from pathlib import Path

import pytest
from support.docs.documents import CHANGELOG, DOCS, PAGES, ROOT, anchors, links, name_of, text_of

SITE = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [*PAGES, CHANGELOG], ids=name_of)
def test_a_link_leads_to_a_file_and_a_heading_of_it(page: Path) -> None:
    broken = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_the_navigation_names_each_page_once_and_no_other() -> None:
    navigation = SITE.partition("\nnav:\n")[2]
    listed = re.findall(r"[\w/-]+\.md", navigation)
    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def test_pages_outside_the_site_are_not_linked_from_it() -> None:
    outside = [
        (name_of(page), target)
        for page in PAGES
        if page.is_relative_to(DOCS)
        for target in links(page)
        if not (page.parent / target.partition("#")[0]).resolve().is_relative_to(DOCS)
    ]
    assert outside == []


def test_the_readme_is_short_and_begins_with_what_it_is() -> None:
    lines = text_of(ROOT / "README.md").splitlines()
    assert len(lines) < 150
    assert lines[2].startswith("**")
    assert any(line.startswith("![") for line in lines[:10])
    pictures = sorted((DOCS / "images").iterdir())
    assert all(picture.stat().st_size < 300_000 for picture in pictures)


def test_each_view_of_the_run_page_has_four_small_pictures_that_a_page_shows() -> None:
    folder = DOCS / "images" / "page"
    pictures = {picture.name: picture.stat().st_size for picture in folder.iterdir()}
    views = {name.rsplit("-", 2)[0] for name in pictures}
    wanted = {f"{view}-{width}-{theme}.png" for view in views for width in (1440, 390) for theme in ("light", "dark")}
    assert len(views) >= 10
    assert set(pictures) == wanted
    assert max(pictures.values()) < 160_000
    assert sum(pictures.values()) < 3_000_000
    shown = {Path(target).name for page in PAGES for target in links(page) if target.endswith(".png")}
    assert set(pictures) <= shown
