"""What the documents name exists: files, settings, commands, options, modules, identifiers and messages."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from support.docs.documents import DOCS, PAGES, ROOT, fenced, name_of, spans, text_of

from arlarena.console.cli.configuration import read_tables

# Files of a run, of a package that `arlarena init` writes, and of other programs.
NOT_OURS = re.compile(
    r"(^|/)(runs?|RUN|eval_sets|episodes|checkpoints|weights|groups|progress|logs|my_\w+|wheels)(/|\.|$)"
    r"|^(site|panel|config\.secrets)/|[<>…*{ ]|NAME|^~?/|^test_my_|^make_levels|^sampling_params|^outputs"
)
CODE = (".py", ".toml", ".json", ".j2", ".yml", ".yaml", ".txt", ".template", ".Dockerfile", ".js")
IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)+")
# Named in the documents, and defined by other projects, by a kernel, or by a format string of the code.
FOREIGN = {"MADV_COLLAPSE", "depends_on", "pkey_mprotect", "raw_logprobs", "total_empty"} | {
    f"{name}_{bound}"
    for name in ("invalid", "return", "turns")
    for bound in ("min", "max")  # parameters of the page
}
ABSENT = {"arlarena/__init__.py": "AGENTS.md says that there is none"}


@cache
def files() -> list[str]:
    """The files of the repository, by git."""
    done = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True)
    return done.stdout.decode().splitlines()


@cache
def words() -> frozenset[str]:
    """Every word of the code, its data and its tests."""
    found: set[str] = set()
    for name in files():
        if name.endswith(CODE) or name in ("Makefile", "compose.yaml", "mkdocs.yml"):
            path = ROOT / name
            if path.exists() and path.stat().st_size < 1_000_000 and not name.startswith("tests/unit/docs/"):
                found.update(re.findall(r"[A-Za-z_][A-Za-z0-9_]*", path.read_text(encoding="utf-8")))
    return frozenset(found)


@cache
def settings() -> dict[str, set[str]]:
    """The keys of each table of a configuration; of `environment.options` those of all environments."""
    found: dict[str, set[str]] = {}
    for name, table in read_tables().items():
        found.setdefault(name.partition(" ")[0], set()).update(setting.key for setting in table)
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_file_that_is_named_exists(page: Path) -> None:
    named = [
        span.partition("::")[0].removeprefix("./")
        for span in spans(page)
        if re.fullmatch(r"[\w./-]+\.(py|toml|json|md|yml|svg)", span) and not NOT_OURS.search(span)
    ]
    everything = files()
    missing = [
        name
        for name in named
        if ("/" in name or name.endswith((".py", ".md")))
        and name not in ABSENT
        and not any(f"/{file}".endswith(f"/{name}") for file in everything)
    ]
    assert missing == []
    tops = {file.partition("/")[0] for file in everything}
    folders = [
        span for span in spans(page) if re.fullmatch(r"[\w.-]+(/[\w.-]+)*/", span) and span.split("/")[0] in tops
    ]
    assert [name for name in folders if not any(file.startswith(name) for file in everything)] == []


def without(*names: str) -> list[Path]:
    """The pages but those of these names."""
    assert set(names) <= {page.name for page in PAGES}
    return [page for page in PAGES if page.name not in names]


def named_settings(page: Path) -> list[tuple[str, str]]:
    """(table, key) of code spans such as `[trainer] lr = 1e-4`; the key may be empty."""
    found = [re.fullmatch(r"\[([a-z_.]+)\](?: ([a-z_]+)\b.*)?", span) for span in spans(page)]
    return [(match[1], match[2] or "") for match in found if match]


@pytest.mark.parametrize("page", without("coming-from.md"), ids=name_of)  # it names tables of other projects
def test_a_setting_that_is_named_exists(page: Path) -> None:
    tables = settings() | {"gymnasium": set()}  # an extra of pip
    unknown = [(table, key) for table, key in named_settings(page) if key not in tables.get(table, set()) | {""}]
    assert unknown == []
    assert {table for table, _ in named_settings(page)} <= tables.keys()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_toml_that_is_shown_has_known_keys(page: Path) -> None:
    for block in fenced(page, "toml"):
        for table, values in tomllib.loads(block).items():
            if table == "project":
                continue
            for key, value in values.items():
                if isinstance(value, dict) and f"{table}.{key}" in settings() and key != "recipe_overrides":
                    assert value.keys() <= settings()[f"{table}.{key}"], (table, key, value)
                assert key in settings()[table], (table, key)


def command_lines(page: Path) -> Iterator[str]:
    """Each command that a page shows, continued lines joined."""
    for block in fenced(page, "sh", "bash", ""):
        yield from re.sub(r"\\\n\s*", " ", block).splitlines()
    yield from spans(page)


@cache
def helps() -> dict[str, str]:
    """The help text of each command, from the generated page."""
    text = text_of(DOCS / "reference" / "command-line.md")
    parts = re.findall(r"^## `([^`]+)`\n\n```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(parts) > 15
    return dict(parts)


def shown_commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """(command as the generated page names it, its options) of each line that calls `arlarena` or a module of it."""
    for line in command_lines(page):
        text = re.sub(r"\S*bin/", "", line.partition(" #")[0]).strip()
        match = re.match(r"((?:[A-Z_]+=\S+ )*)(arlarena|python -m arlarena[\w.]+)((?: [a-z]+)*)", text)
        if not match or "|" in text:
            continue
        called = match[2] + match[3]
        while called not in helps() and " " in called:
            called = called.rpartition(" ")[0]
        yield called, re.findall(r"(?<!\S)\[?(--[a-z][a-z-]+)", text)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_command_that_is_shown_has_the_options_shown(page: Path) -> None:
    for called, options in shown_commands(page):
        if called in helps():
            assert [option for option in options if option not in helps()[called]] == [], called


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_subcommand_or_a_module_that_is_shown_exists(page: Path) -> None:
    for line in command_lines(page):
        for name in re.findall(r"(?:^|bin/|\s)arlarena ([a-z]+)\b", line):
            assert f"arlarena {name}" in helps(), line
        for module in re.findall(r"-m (arlarena[\w.]+|benchmarks[\w.]+|support[\w.]+)", line):
            path = module.rstrip(".").replace(".", "/")
            assert any(f"/{file}".endswith((f"/{path}.py", f"/{path}/__main__.py")) for file in files()), line


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_make_target_that_is_shown_exists(page: Path) -> None:
    makefile, setup, verify = (
        (ROOT / name).read_text(encoding="utf-8") for name in ("Makefile", "scripts/setup.py", "scripts/verify.py")
    )
    for line in command_lines(page):
        match = re.match(r"\s*(?:[A-Z_]+=\S+ )*make ([a-z0-9-]+)(?: (EXTRA|PART)=(\w+))?", line)
        if match:
            target, variable, name = match.groups()
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), line
            if name:
                known = setup if variable == "EXTRA" else verify
                bench = (ROOT / "benchmarks" / name / "speed.py").exists()
                assert f'"{name}": ' in known or (target == "bench" and bench), line


# Three pages name identifiers of other projects, or deleted ones. The page of metrics is generated from the registries.
OTHER_WORDS = (
    "coming-from.md", "0011-math-verify-parses-our-rules-decide.md", "0015-where-libraries-do-not-pay.md", "metrics.md"
)  # fmt: skip


@pytest.mark.parametrize("page", without(*OTHER_WORDS), ids=name_of)
def test_an_identifier_that_is_named_is_a_word_of_the_code(page: Path) -> None:
    unknown = {
        span
        for span in spans(page)
        if IDENTIFIER.fullmatch(span) and span not in words() and span not in FOREIGN and not _composed(span)
    }
    assert unknown == set()


def _composed(name: str) -> bool:
    """An environment variable of a setting, such as ARLARENA_INFERENCE_API_KEY, or a name of a tutorial."""
    service, _, key = name.removeprefix("ARLARENA_").partition("_")
    return name.startswith("my_") or key.lower() in settings().get(service.lower(), set())


def _defined(module: str) -> set[str]:
    """The names at the top of a module of ours, by its source."""
    path = module.replace(".", "/")
    (file,) = [f for f in files() if f"/{f}".endswith((f"/{path}.py", f"/{path}/__init__.py"))][:1] or [""]
    assert file, module
    found = set()
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found.update(target.id for target in targets if isinstance(target, ast.Name))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_imports_that_are_shown_exist(page: Path) -> None:
    for block in fenced(page, "python"):
        try:
            tree = ast.parse(block)
        except IndentationError:
            tree = ast.parse("class Shown:\n" + block)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("arlarena."):
                assert {alias.name for alias in node.names} <= _defined(str(node.module)), node.module


@pytest.mark.parametrize("name", ["client", "environment", "objectives", "proto"])
def test_the_api_pages_name_modules_that_exist(name: str) -> None:
    listed = re.findall(r"^::: ([\w.]+)$", text_of(DOCS / "reference" / "python" / f"{name}.md"), re.MULTILINE)
    assert listed
    for module in listed:
        _defined(module)
    if name == "environment":
        folder = ROOT / "environments" / "sdk" / "arlarena" / "environment"
        assert {path.stem for path in folder.glob("[a-z]*.py")} == {module.rpartition(".")[2] for module in listed}


def test_public_objectives_are_on_their_page() -> None:
    listed = re.findall(r"^::: ([\w.]+)$", text_of(DOCS / "reference" / "python" / "objectives.md"), re.MULTILINE)
    package, *modules = listed
    source = next(ROOT.glob("services/trainer/" + package.replace(".", "/") + "/__init__.py"))
    imports = [node for node in ast.parse(source.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
    assert {str(node.module) for node in imports} <= set(modules)


def test_messages_that_the_troubleshooting_page_quotes_are_in_the_code() -> None:
    page = text_of(DOCS / "how-to" / "troubleshooting.md")
    table = page.partition("## Before the start")[2].partition("\n## ")[0]
    quoted = [
        text for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for text in re.findall(r"`([^`]+)`", row)
    ]
    assert len(quoted) > 8
    sources = "".join(
        (ROOT / name).read_text(encoding="utf-8")
        for name in files()
        if name.endswith(".py") and name.startswith(("services", "proto", "client", "environments", "scripts/setup"))
    )
    flat = re.sub(r'"\s*\n\s*f?"', "", sources)
    assert [text for text in quoted if text not in flat] == []


def test_the_checks_find_what_is_wrong(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("`[trainer] no_such_key`, `arlarena up x --no-such`, `no_such_word_here` and `services/none.py`\n")
    assert named_settings(page) == [("trainer", "no_such_key")]
    assert "no_such_key" not in settings()["trainer"]
    assert list(shown_commands(page)) == [("arlarena up", ["--no-such"])]
    assert "--no-such" not in helps()["arlarena up"]
    assert "no_such_word_here" not in words()
