"""Each thing has one home: a configuration key, a read of the environment, an atomic write, a suggestion of a name."""

import ast
import functools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pydantic.fields import FieldInfo
from scripts.configuration_reference import TABLES

from arlarena.proto import config
from arlarena.rollout.settings import Addresses

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("proto", "client", "sandbox", "environments", "services")

# Why a file that is no settings module uses os.environ.
MAY_USE_ENVIRON = {
    "proto/arlarena/proto/text/usage_name.py": "the name in usage lines, which argparse needs before any setting",
    "sandbox/arlarena/sandbox/lockdown.py": "a program gets none of the service's variables",
    "services/console/arlarena/console/cli/app.py": "the process that replaces this one inherits all variables",
    "services/inference/arlarena/inference/gateway/build.py": "an engine process inherits all variables",
    "services/inference/arlarena/inference/vllm/server.py": "vLLM's process inherits all but our variables and secrets",
    "services/rollout/arlarena/rollout/evaluation/start/local_service.py": "a service inherits all but secrets",
    "services/trainer/arlarena/trainer/__main__.py": "defaults of torch's variables, set before torch is imported",
}
# Why a file that is not atomic_files.py names a partial file.
MAY_REPLACE_FOLDERS = {
    "environments/webshop/arlarena/environments/webshop/catalogue/build.py": "replaces a folder",
    "services/trainer/arlarena/trainer/output.py": "replaces a folder",
    "services/trainer/arlarena/trainer/state/checkpoint.py": "replaces a folder",
    "services/trainer/arlarena/trainer/weights/versions.py": "replaces a folder",
}
# Why a file that is not names.py compares names.
MAY_COMPARE_NAMES = {
    "services/trainer/arlarena/trainer/objectives/registry.py": "objectives import torch and the standard library alone"
}


@functools.cache
def sources() -> dict[str, str]:
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for folder in PACKAGES
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not {"build", "dist"} & set(path.relative_to(ROOT).parts)
    }


@functools.cache
def trees() -> dict[str, ast.Module]:
    return {name: ast.parse(text) for name, text in sources().items()}


def table_classes() -> dict[str, set[str]]:
    """The names of all subclasses of `Table` in the packages, each with the keys that it declares itself."""
    classes = {
        node.name: node for tree in trees().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    }
    found: dict[str, set[str]] = {}

    def is_table(name: str) -> bool:
        bases = [ast.unparse(base) for base in classes[name].bases] if name in classes else []
        return "Table" in bases or any(map(is_table, bases))

    for name, node in classes.items():
        if is_table(name):
            found[name] = {
                line.target.id
                for line in node.body
                if isinstance(line, ast.AnnAssign)
                and isinstance(line.target, ast.Name)
                and "ClassVar" not in ast.unparse(line.annotation)
            }
    return found


def lines_of(classes: dict[str, set[str]]) -> Iterator[tuple[str, str]]:
    """A pair of table and key for each declaration of a key in the classes of the tables."""
    for table, model in TABLES.items():
        for kind in model.__mro__:
            for key in classes.get(kind.__name__, ()):
                yield table, key


def test_a_key_of_the_configuration_is_declared_once() -> None:
    declared = Counter(lines_of(table_classes()))
    assert len(declared) > 250
    assert {pair: count for pair, count in declared.items() if count > 1} == {}
    assert declared.keys() == {(table, key) for table, model in TABLES.items() for key in model.model_fields}


def test_every_model_of_a_table_is_in_the_reference() -> None:
    """A second model of a table, or one that the reference lacks, is none of these."""
    documented = {kind.__name__ for model in TABLES.values() for kind in model.__mro__}
    assert table_classes().keys() - documented == {Addresses.__name__}, "Addresses hold flags and variables alone"
    assert set(config.TABLES) <= TABLES.keys()


def test_every_key_has_a_description_and_a_default() -> None:
    fields: dict[str, FieldInfo] = {
        f"[{table}] {key}": field for table, model in TABLES.items() for key, field in model.model_fields.items()
    }
    assert [name for name, field in fields.items() if not field.description] == []
    required = [name for name, field in fields.items() if field.is_required()]
    assert required == ["[environment.options.train (tir_math)] name"]


def uses_environ(tree: ast.Module) -> bool:
    return any(
        (
            isinstance(node, ast.Attribute)
            and node.attr in ("environ", "environb", "getenv", "putenv")
            and ast.unparse(node.value) == "os"
        )
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "os"
            and any(name.name in ("environ", "getenv") for name in node.names)
        )
        for node in ast.walk(tree)
    )


def test_settings_modules_alone_read_environment_variables() -> None:
    readers = {name for name, tree in trees().items() if uses_environ(tree)}
    settings = {name for name in readers if name.endswith("/settings.py")}
    assert len(settings) >= 7
    assert readers - settings == set(MAY_USE_ENVIRON)


def test_reads_of_environment_variables_are_recognised() -> None:
    for text in ("import os\nos.environ['X']", "import os\nos.getenv('X')", "from os import environ"):
        assert uses_environ(ast.parse(text)), text
    assert not uses_environ(ast.parse("import os\nos.path.join('environ')"))


def files_with(pattern: str) -> set[str]:
    return {name for name, text in sources().items() if re.search(pattern, text)}


def test_one_module_replaces_files() -> None:
    helper = "proto/arlarena/proto/atomic_files.py"
    assert files_with(r"\bpartial\.(replace|rename)\(|os\.replace\(") == {helper} | set(MAY_REPLACE_FOLDERS)


def test_one_module_suggests_names() -> None:
    helper = "proto/arlarena/proto/text/names.py"
    assert files_with(r"get_close_matches") == {helper} | set(MAY_COMPARE_NAMES)
