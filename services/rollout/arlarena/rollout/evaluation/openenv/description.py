"""Reads an OpenEnv server's description, task splits and MCP tools over HTTP."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from arlarena.client.environments import REQUEST_S
from arlarena.client.errors import ProtocolError, Refused, ServiceError, Unavailable
from arlarena.client.transport import Answer, HttpTransport, Timeouts, quote
from arlarena.proto.env_api import Info, Split
from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.openenv.rules import SEEDS

MAX_DESCRIPTION_BYTES = 1 << 20  # maximum size of a response
MAX_NAME_CHARS = 200
MAX_SPLITS = 100  # one request is sent per split
TRAINING = "train"  # type of training splits; all other splits are evaluation splits
NO_TASKS_STATUS = 501  # HTTP status of an OpenEnv server without a Task API
TOKEN_VARIABLE = "ARLARENA_ENVIRONMENT_TOKEN"

ServerKind = Literal["ours", "openenv"]


@dataclass(frozen=True, slots=True)
class OpenEnvDescription:
    """The data of `GET /metadata` and `GET /schema`.

    Attributes:
        version: version of the environment, followed by a digest of the schemas.
        schemas: unchecked JSON Schemas by name, such as "action" and "observation".
    """

    name: str
    version: str
    description: str
    schemas: dict[str, Any]


def openenv_transport(url: str, token: str | None, timeouts: Timeouts | None) -> HttpTransport:
    """Return an HTTP transport that reads a server's description."""
    return HttpTransport(url, timeouts or Timeouts(request_s=REQUEST_S), token, MAX_DESCRIPTION_BYTES)


async def detect(
    url: str, *, token: str | None = None, timeouts: Timeouts | None = None, retries: int = 0
) -> ServerKind:
    """Return the kind of an environment server: "ours" (GET /v1/info) or "openenv" (GET /metadata and /schema).

    `retries`: maximum number of retries of a request to an unavailable server.

    Raises:
        Unavailable: the server is unreachable or failing.
        EvaluationError: the server is of neither kind, or rejects the token. The message names the failed requests.
    """
    async with openenv_transport(url, token, timeouts) as transport:
        try:
            answer = await transport.request("GET", "/v1/info", retries=retries)
            if answer.status == 200 and _is(answer, Info):
                return "ours"
            info = f"HTTP {answer.status}"
        except ProtocolError as error:
            info = str(error)
        try:
            await read_description(transport, retries=retries)
        except (Refused, ProtocolError) as error:
            if isinstance(error, Refused) and error.status in (401, 403):
                problem = "rejects the token in" if token else "requires a token: put the token into"
                raise EvaluationError(f"{transport.url} {problem} {TOKEN_VARIABLE} ({error})") from error
            raise EvaluationError(
                f"{transport.url} is neither an ARLArena environment server (GET /v1/info: {info}) nor an OpenEnv "
                f"server ({error})"
            ) from error
    return "openenv"


async def read_description(transport: HttpTransport, *, retries: int = 0) -> OpenEnvDescription:
    """Read /metadata and /schema.

    Raises:
        ServiceError: the server does not answer, or is not an OpenEnv server. The message names the route.
    """
    metadata = _decoded(await transport.request("GET", "/metadata", retries=retries), dict)
    schemas = _decoded(await transport.request("GET", "/schema", retries=retries), dict)
    if "action" not in schemas:
        raise ProtocolError(f"GET {transport.url}/schema: action is missing")
    name = _text(metadata, "name", transport)
    if not _is_name(name):
        raise ProtocolError(f"GET {transport.url}/metadata: name is not a valid name: {name[:MAX_NAME_CHARS]!r}")
    version = _text(metadata, "version", transport) or "unversioned"
    digest = hashlib.blake2b(msgspec.json.encode(schemas, order="deterministic"), digest_size=8).hexdigest()
    description = _text(metadata, "description", transport)
    return OpenEnvDescription(name, f"{version[:MAX_NAME_CHARS]}+schema.{digest}", description, schemas)


async def read_splits(transport: HttpTransport) -> list[Split]:
    """Return the splits of the server's Task API, with their numbers of tasks. Return [] if the server has no Task API.

    Raises:
        ServiceError: the server failed, or a response is invalid. The message names the route.
    """
    try:
        try:
            names = _decoded(await transport.request("GET", "/list_environments"), list)
        except (Refused, ProtocolError):
            return []  # the server has no Task API
        if len(names) != 1 or not _is_name(names[0]) or "/" in names[0]:
            raise ProtocolError(f"GET {transport.url}/list_environments: the response is not a list of one name")
        found = _decoded(await transport.request("GET", f"/{names[0]}/splits"), list)
    except Unavailable as error:
        if error.status == NO_TASKS_STATUS:
            return []
        raise
    if len(found) > MAX_SPLITS:
        raise ProtocolError(f"GET {transport.url}/{names[0]}/splits: {len(found)} splits; the maximum is {MAX_SPLITS}")
    splits = [_split(each, f"{transport.url}/{names[0]}/splits") for each in found]
    return [
        Split(split.name, split.type, await _size(transport, names[0], split.name), split.evaluation)
        for split in splits
        if split.name != SEEDS  # the client uses this name for its own split
    ]


async def read_tools(transport: HttpTransport) -> list[dict[str, Any]]:
    """Return `name`, `description` and `input_schema` of each MCP tool, sorted by name.

    Raises:
        ServiceError: the server failed, lists no tools, or lists a tool without a name.
    """
    body = msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}})
    answer = await transport.request("POST", "/mcp", body)
    result = _decoded(answer, dict).get("result")
    listed = result.get("tools") if isinstance(result, dict) else None
    if not isinstance(listed, list) or not listed:
        raise ProtocolError(f"{answer.request} with tools/list: no tools in {quote(answer.body)}")
    tools = []
    for tool in listed:
        if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
            raise ProtocolError(f"{answer.request} with tools/list: a tool has no name: {quote(answer.body)}")
        schema = tool.get("inputSchema", tool.get("input_schema"))
        tools.append({"name": tool["name"], "description": tool.get("description") or "", "input_schema": schema})
    return sorted(tools, key=lambda tool: str(tool["name"]))


def _split(found: Any, where: str) -> Split:
    name, kind = (found.get("name"), found.get("type")) if isinstance(found, dict) else (None, None)
    if not isinstance(name, str) or not _is_name(name):
        raise ProtocolError(f"GET {where}: the name of a split is {quote(repr(name).encode())}")
    kinds: dict[Any, Literal["train", "validation", "test"]] = {TRAINING: "train", "test": "test"}
    named = kinds.get(kind, "validation") if isinstance(kind, str) else "validation"
    return Split(name, named, None, evaluation=named != TRAINING)


async def _size(transport: HttpTransport, environment: str, split: str) -> int:
    route = f"/{environment}/num_tasks"
    size = _decoded(await transport.request("POST", route, msgspec.json.encode({"split": split})), dict).get(
        "num_tasks"
    )
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ProtocolError(f"POST {transport.url}{route}: num_tasks of the split {split!r} is not a number of tasks")
    return size


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME_CHARS and value.isprintable()


def _text(metadata: dict[str, Any], field: str, transport: HttpTransport) -> str:
    value = metadata.get(field)
    if value is not None and not isinstance(value, str):
        raise ProtocolError(f"GET {transport.url}/metadata: {field} is {type(value).__name__}, not a string")
    return value or ""


def _decoded(answer: Answer, kind: type[Any]) -> Any:
    """Return the body of a response.

    Raises:
        Refused: the status is not 200.
        ProtocolError: the body is not JSON of the type `kind`.
    """
    if answer.status != 200:
        raise Refused(f"{answer.request}: HTTP {answer.status}: {quote(answer.body)}", answer.status)
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise answer.malformed(error) from error


def _is(answer: Answer, kind: type[Any]) -> bool:
    try:
        _decoded(answer, kind)
    except ServiceError:
        return False
    return True
