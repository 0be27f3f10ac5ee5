"""Compatibility of the wire format: schemas are current, old files can be converted, no pickle, no trimming."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from arlarena.proto.convert import convert_groups, converted_message
from arlarena.proto.export_schemas import CHECKOUT_SCHEMAS, export, main, outdated, rendered
from arlarena.proto.streams import lua_scripts as _scripts
from arlarena.proto.trajectory import Group, Sampling, SchemaError, decode_group, decode_group_task, encode, read_groups

PROTO = Path(_scripts.__file__).parent
# Bytes of schema 1. They are never regenerated, because they represent files and queues of users.
GROUP_V1 = Path(__file__).parent / "group_v1.msgpack"
TASK_V1 = Path(__file__).parent / "group_task_v1.msgpack"


def test_the_exported_schemas_are_current() -> None:
    assert outdated(CHECKOUT_SCHEMAS) == [], "run `python -m arlarena.proto.export_schemas`"
    assert {path.name for path in CHECKOUT_SCHEMAS.iterdir()} == set(rendered())


def test_check_finds_a_missing_and_a_changed_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(tmp_path)
    assert main(["--check", str(tmp_path)]) == 0
    (tmp_path / "Group.json").write_text("{}")
    (tmp_path / "GroupTask.json").unlink()
    assert main(["--check", str(tmp_path)]) == 1
    output = capsys.readouterr().err
    assert "Group.json is not current" in output
    assert "GroupTask.json is not current" in output


def test_the_command_writes_schemas_of_every_field(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "arlarena.proto.export_schemas", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    schema = json.loads((tmp_path / "Group.json").read_text())
    assert set(schema["$defs"]["Group"]["properties"]) == {field.name for field in msgspec.structs.fields(Group)}
    assert "loss_mask" in schema["$defs"]["Turn"]["required"]


def test_a_file_of_schema_1_is_read_after_conversion(tmp_path: Path) -> None:
    body = GROUP_V1.read_bytes()
    with pytest.raises(SchemaError, match="group has schema 1"):
        decode_group(body)
    path = tmp_path / "groups.msgpack"
    path.write_bytes(convert_groups(len(body).to_bytes(4, "little") + body))
    (group,) = read_groups(path)
    assert (group.id, group.schema, group.size, len(group.trajectories)) == ("g000001", 3, 2, 2)
    turn = group.trajectories[0].turns[0]
    assert turn.tokens().tolist() == [5, 2]
    assert turn.behaviour_logprobs().tolist() == [-0.25, -1.5]
    assert turn.mask().tolist() == [1, 1]
    assert turn.spans[0].version.step == 3
    assert turn.no_action is False  # a field that was added later
    assert group.trajectories[1].outcome == "policy_error"
    assert group.trajectories[1].fault == ""  # a field that was added later
    with pytest.raises(SchemaError, match="group task has schema 1"):
        decode_group_task(TASK_V1.read_bytes())
    task = decode_group_task(msgspec.msgpack.encode(converted_message(msgspec.msgpack.decode(TASK_V1.read_bytes()))))
    assert (task.group_id, task.task.id, task.size, task.sampling) == ("g000001", "sokoban/train/17", 8, Sampling())


def test_a_field_that_a_later_writer_added_is_ignored() -> None:
    raw = converted_message(msgspec.msgpack.decode(GROUP_V1.read_bytes()))
    group = decode_group(msgspec.msgpack.encode(raw))
    raw["invented_later"] = {"x": 1}
    raw["trajectories"][0]["turns"][0]["also_later"] = [1]
    assert decode_group(msgspec.msgpack.encode(raw)) == group


def test_messages_are_maps_so_that_fields_can_be_added_anywhere() -> None:
    group = decode_group(msgspec.msgpack.encode(converted_message(msgspec.msgpack.decode(GROUP_V1.read_bytes()))))
    assert set(msgspec.msgpack.decode(encode(group))) >= {"id", "task", "schema"}


def test_only_dead_letters_are_ever_trimmed() -> None:
    for name in ("lua_scripts.py", "connection.py", "queue.py", "lease_holder.py", "trainer_lease.py"):
        code = ast.parse((PROTO / name).read_text(encoding="utf-8"))
        texts = [
            node.value for node in ast.walk(code) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        documentation = {
            ast.get_docstring(node, clean=False) for node in ast.walk(code) if isinstance(node, ast.Module)
        }
        lines = [line for text in texts if text not in documentation for line in text.splitlines()]
        assert lines
        trims = [line for line in lines if "MAXLEN" in line.upper() or "XTRIM" in line.upper()]
        assert all(re.match(r"\s*redis\.call\('(XADD|XTRIM)', dead,", line) for line in trims)


def test_proto_does_not_import_pickle() -> None:
    banned = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
    for path in PROTO.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & banned, path
            assert not (isinstance(node, ast.keyword) and node.arg == "allow_pickle"), path
