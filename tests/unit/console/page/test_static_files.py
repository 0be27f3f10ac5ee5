"""Rules of the page's own files: nothing from elsewhere, no HTML from text, sizes, and imports that exist."""

import re
from collections import Counter
from pathlib import Path

from arlarena.console.page.server.app import STATIC

MODULES = sorted(STATIC.rglob("*.js"))
MOST_LINES, MOST_MODULES = 400, 15
# Functions that turn text into HTML or code, and styles that the Content-Security-Policy refuses.
FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|createContextualFragment"
    r"|srcdoc|cssText|setAttribute\(\"style|\bstyle: [\"`]"
)
ADDRESS = re.compile(r"(?:https?:)?//[a-z0-9-]+\.[a-z]+[^\s\"']*", re.IGNORECASE)
IMPORT = re.compile(r"(?:from|import)\s*\(?\"(\.[^\"]+)\"")
EXPORT = re.compile(r"^export (?:async )?(?:function|class|const|let) (\w+)", re.MULTILINE)


def test_modules_are_small_and_folders_have_few():
    assert len(MODULES) > 25
    assert {path.name for path in MODULES if len(path.read_text().splitlines()) > MOST_LINES} == set()
    assert {
        str(folder) for folder, count in Counter(path.parent for path in MODULES).items() if count > MOST_MODULES
    } == set()


def test_no_module_makes_html_or_code_from_text():
    assert {path.name: found[0] for path in MODULES if (found := FORBIDDEN.search(path.read_text()))} == {}
    assert FORBIDDEN.search("node.innerHTML = text")


def test_nothing_is_loaded_from_another_host():
    namespace = "//www.w3.org/2000/svg"
    files = [*MODULES, *STATIC.glob("*.html"), *STATIC.glob("*.css"), *STATIC.glob("*.svg")]
    found = {path.name: [each for each in ADDRESS.findall(path.read_text()) if namespace not in each] for path in files}
    assert {name: addresses for name, addresses in found.items() if addresses} == {}
    assert ADDRESS.findall('import "https://cdn.example.org/x.js"')


def test_the_document_has_no_inline_script_or_style():
    text = (STATIC / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=", text) == []


def test_imports_name_existing_modules_and_exports():
    missing = []
    for path in MODULES:
        text = path.read_text()
        for name in IMPORT.findall(text):
            if not (path.parent / name).is_file():
                missing.append((path.name, name))
        for names, source in re.findall(r"import \{ ([^}]+) \} from \"(\.[^\"]+)\"", text):
            exported = set(EXPORT.findall((path.parent / source).read_text()))
            missing += [(path.name, name) for name in re.split(r",\s*", names.strip()) if name and name not in exported]
    assert missing == []


def test_exports_are_described():
    def described(path: Path) -> list[str]:
        text = path.read_text()
        return [
            found[1] for found in EXPORT.finditer(text) if not text[: found.start()].rstrip().endswith(("*/", "@type"))
        ]

    assert {
        path.name: names for path in MODULES if (names := [name for name in described(path) if not name[0].isupper()])
    } == {}
