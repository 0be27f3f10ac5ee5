"""Two small real servers with faults on demand: an environment (a corridor), and a policy with scripted replies."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
from aiohttp import web

from arlarena.client.environments import EnvironmentClient
from arlarena.client.policy import SESSION_HEADER, PolicyClient
from arlarena.client.transport import Timeouts
from arlarena.proto.env_api import Info, Parser, Split, Template
from arlarena.proto.telemetry import Logger
from arlarena.rollout.__main__ import main
from arlarena.rollout.runner import Runner
from arlarena.rollout.settings import RolloutSettings
from arlarena.rollout.tokens import Tokens

GOAL, HORIZON = 3, 6
RIGHT = "<think></think><action>right</action>"
SPLITS: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation", "test")


@dataclass
class Walk:
    """One session: a position between 0 and GOAL, which the actions `left` and `right` change."""

    task: str = ""
    at: int = 0
    steps: int = 0
    done: bool = False
    answer: dict[str, Any] = field(default_factory=dict)
    actions: list[str] | None = None  # the admissible actions in each observation
    talks: bool = False  # whether the environment is a conversation, whose prompts contain all turns

    def reply(self, reward: float, action: str, valid: bool, formatted: bool) -> dict[str, Any]:
        solved = self.at == GOAL
        self.done = solved or self.steps >= HORIZON
        observation = {
            "remaining_steps": HORIZON - self.steps,
            "text": f"at {self.at}",
            "prompt": f"you are at {self.at}",
            "terminated": solved,
            "truncated": self.done and not solved,
            "action_valid": valid,
            "format_valid": formatted,
            "step": self.steps,
            "admissible_actions": self.actions,
            "message": (f"now at {self.at}" if self.steps else f"walk to {GOAL}") if self.talks else None,
        }
        metadata = {
            "task_id": self.task,
            "state_key": f"{self.task}@{self.at}",
            "observation_key": f"o{self.at}",
            "action": action,
            "success": solved,
            "score": float(solved),
            "optimal_moves": GOAL,
            "content_key": f"room-{self.task}",
            "no_action": self.steps > 0 and not action,
            "kind": "even" if self.task[-1] in "02468" else "odd",
        }
        return {"ok": True, "observation": observation, "reward": reward, "done": self.done, "metadata": metadata}


class Corridor:
    """The environment server. Each request takes one entry of `faults`: an error status, or seconds to wait (float)."""

    def __init__(self) -> None:
        self.sessions: dict[str, Walk] = {}
        self.capacity = 1000
        self.faults: list[int | float] = []
        self.on_step: Callable[[], None] | None = None
        self.batches: list[int] = []
        self.size: int | None = None  # number of tasks of each split; None: unlimited
        self.plan = True
        self.actions: list[str] | None = None
        self.talks = False

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.post("/v1/sessions", self.open),
                web.post("/v1/batch", self.batch),
                web.get("/v1/sessions/{id}/expert", self.expert),
                web.get("/v1/info", self.info),
                web.get("/ready", self.ready),
            ]
        )
        return app

    async def _fault(self) -> web.Response | None:
        if not self.faults:
            return None
        fault = self.faults.pop(0)
        if isinstance(fault, float):
            await asyncio.sleep(fault)
            return None
        return web.json_response(
            {"code": "broken", "message": "told to fail", "blame": "infra", "retryable": True}, status=fault
        )

    async def ready(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ready"})

    async def info(self, request: web.Request) -> web.Response:
        info = Info(
            name="corridor",
            version="1",
            description="",
            template=Template("plain", "1", "you are at {at}"),
            parser=Parser("1", ""),
            rewards={},
            horizon=HORIZON,
            actions=["left", "right"],
            splits=[Split(name, name, self.size, name != "train") for name in SPLITS],
            options={},
            capabilities=[],
        )
        return web.Response(body=msgspec.json.encode(info))

    async def open(self, request: web.Request) -> web.Response:
        if (answer := await self._fault()) is not None:
            return answer
        count = (await request.json()).get("count", 1)
        if len(self.sessions) + count > self.capacity:
            body = {"code": "capacity_reached", "message": "full", "blame": "infra", "retryable": True}
            return web.json_response(body, status=503, headers={"Retry-After": "0"})
        ids = [uuid.uuid4().hex for _ in range(count)]
        self.sessions |= {one: Walk(actions=self.actions, talks=self.talks) for one in ids}
        return web.json_response({"sessions": [{"session_id": one, "lease_expires_at": 0.0} for one in ids]})

    async def expert(self, request: web.Request) -> web.Response:
        walk = self.sessions[request.match_info["id"]]
        text = "<think></think><action>right</action>"
        plan = [text] * (GOAL - walk.at) if self.plan else []
        return web.json_response({"text": text, "plan": plan})

    async def batch(self, request: web.Request) -> web.Response:
        if (answer := await self._fault()) is not None:
            return answer
        items = (await request.json())["items"]
        self.batches.append(len(items))
        return web.json_response({"results": [{"session_id": i["session_id"], **self.one(i)} for i in items]})

    def one(self, item: dict[str, Any]) -> dict[str, Any]:
        walk = self.sessions.get(item["session_id"])
        if walk is None:
            return self._error("unknown_session", "infra", retryable=True)
        if item["op"] == "close":
            del self.sessions[item["session_id"]]
            return {"ok": True}
        if item["op"] == "reset":
            return self.reset(walk, item)
        if self.on_step is not None:
            self.on_step()
        return self.step(walk, item)

    def reset(self, walk: Walk, item: dict[str, Any]) -> dict[str, Any]:
        if self.size is not None and item["index"] >= self.size:
            return self._error("unknown_task", "client")
        walk.task, walk.at, walk.steps = f"{item['split']}/{item['index']}", 0, 0
        return walk.reply(0.0, "", True, True)

    def step(self, walk: Walk, item: dict[str, Any]) -> dict[str, Any]:
        text = item["action"]["text"]
        if text == "<poison>":
            return self._error("poisoned", "policy")
        if item["step_index"] == walk.steps - 1:
            return walk.answer
        assert item["step_index"] == walk.steps, "a step was repeated or skipped"
        action = text.partition("<action>")[2].partition("</action>")[0]
        walk.steps += 1
        walk.at = min(GOAL, max(min(0, walk.at), walk.at + {"right": 1, "left": -1}.get(action, 0)))
        walk.answer = walk.reply(
            -0.1 + (walk.at == GOAL), action, action in ("left", "right"), text.startswith("<think>")
        )
        return walk.answer

    @staticmethod
    def _error(code: str, blame: str, retryable: bool = False) -> dict[str, Any]:
        return {"ok": False, "error": {"code": code, "message": "no", "blame": blame, "retryable": retryable}}


class Mouth:
    """The policy server. A reply is the text `say(prompt text, seed)` and the end-of-sequence token."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.say: Callable[[str, int], str] = lambda prompt, seed: "<think></think><action>right</action>"
        self.faults: list[int | float] = []
        self.requests: list[dict[str, Any]] = []
        self.sessions: list[str | None] = []  # session ids of the requests to `generate`
        self.version = "run:3:abc"
        self.context = 512
        self.complaint = "told to fail"
        self.held: set[int] = set()  # seeds whose requests wait for `release`
        self.release = asyncio.Event()
        self.spoil: Callable[[dict[str, Any]], None] = lambda choice: None

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.post("/inference/v1/generate", self.generate),
                web.post("/v1/chat/completions", self.chat),
                web.get("/v1/models", self.models),
                web.get("/weight_info", self.weight_info),
                web.get("/health", self.health),
            ]
        )
        return app

    async def health(self, request: web.Request) -> web.Response:
        return web.json_response({})

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "mouth", "max_model_len": self.context}]})

    async def weight_info(self, request: web.Request) -> web.Response:
        return web.json_response({"weight_version": self.version})

    async def chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append(body | {"authorization": request.headers.get("Authorization")})
        said = self.say(body["messages"][-1]["content"], body.get("seed", 0))
        cut = said.endswith("…")  # a reply that reached the maximum length
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": said},
            "finish_reason": "length" if cut else "stop",
        }
        return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 1}})

    async def generate(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append(body)
        self.sessions.append(request.headers.get(SESSION_HEADER))
        if self.faults:
            fault = self.faults.pop(0)
            if not isinstance(fault, float):
                return web.json_response(
                    {"error": {"message": self.complaint, "type": "x", "code": fault}}, status=fault
                )
            await asyncio.sleep(fault)
        sampling = body["sampling_params"]
        if sampling["seed"] in self.held:
            await self.release.wait()
        text = self.say(self.tokens.text(body["token_ids"]), sampling["seed"])
        ids = self.tokens.reply(text)[: sampling["max_tokens"]]
        choice = {
            "index": 0,
            "token_ids": ids,
            "finish_reason": "stop" if ids[-1:] == [self.tokens.end_id] else "length",
            "logprobs": {"content": [{"token_id": i, "logprob": -0.5, "top_logprobs": []} for i in ids]},
            "weight_versions": [{"version": self.version, "start": 0, "end": len(ids)}],
        }
        self.spoil(choice)
        return web.json_response({"request_id": "r", "choices": [choice]})


@asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[str]:
    """Serve an application on a free port. Yields its URL."""
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@dataclass
class House:
    """Both servers, their clients and a runner."""

    corridor: Corridor
    mouth: Mouth
    environments: EnvironmentClient
    inference: PolicyClient
    runner: Runner
    settings: RolloutSettings
    log: list[dict[str, Any]]


class Lines:
    """A stream for a logger. It stores the events."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def write(self, text: str) -> None:
        self.events.append(json.loads(text))

    def flush(self) -> None:
        return


@asynccontextmanager
async def open_house(tokens: Tokens) -> AsyncIterator[House]:
    """Run both servers. Their clients do not repeat requests, and wait at most one second for a reply."""
    corridor, mouth, lines = Corridor(), Mouth(tokens), Lines()
    settings = RolloutSettings(service_retry_timeout_s=5.0, lease_block_s=0.2, drain_s=5.0)
    async with served(corridor.app()) as where, served(mouth.app()) as who:
        environments = EnvironmentClient(where, Timeouts(request_s=1.0), retries=0)
        inference = PolicyClient(who, Timeouts(request_s=1.0), retries=0)
        async with environments, inference:
            log = Logger("rollout", stream=lines)  # type: ignore[arg-type]
            runner = Runner(environments, inference, settings, log)
            yield House(corridor, mouth, environments, inference, runner, settings, lines.events)


async def command(
    house: House, policy_directory: Path, *words: str, service_retry_timeout_s: float = 2.0, **tables: str
) -> int:
    """Run a command of arlarena.rollout in a separate thread. Return its exit status."""
    config = policy_directory / "run.toml"
    config.write_text(
        f"[rollout]\n{service_retry_timeout_s = }\nenvironment_timeout_s = 2.0\nrequest_retries = 0\n"
        + "episode_retries = 1\n"
        + f"[policy]\npath = '{policy_directory}'\n[policy.tiny]\nlayers = 4\n"
        + "".join(f"[{name}]\n{body}\n" for name, body in tables.items())
    )
    where = ["--config", str(config), "--environment-url", house.environments.url]
    if words[0] == "evaluate":
        where += ["--inference-url", house.inference.url]
    return await asyncio.to_thread(main, [words[0], *where, *words[1:]])
