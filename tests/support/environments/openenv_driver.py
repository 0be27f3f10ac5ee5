"""Checks an environment server with the clients of the official `openenv` package. Prints the results as JSON.

    .venv-openenv/bin/python tests/support/environments/openenv_driver.py http://127.0.0.1:8000

Runs in a separate Python environment (`make setup EXTRA=openenv`). It imports no module of this repository.
"""

import asyncio
import json
import sys
import traceback
from unittest import mock

# The package imports gradio for the web page of its server. This import takes five seconds. The client and the
# validator do not use gradio.
sys.modules["gradio"] = mock.MagicMock()

from openenv.cli._validation import validate_running_environment  # noqa: E402
from openenv.core.generic_client import GenericAction, GenericEnvClient  # noqa: E402
from openenv.core.mcp_client import MCPToolClient  # noqa: E402


def a_task(url):
    """Return the first task of the first split. Check the task routes."""
    import requests

    (name,) = requests.get(f"{url}/list_environments", timeout=10).json()
    splits = requests.get(f"{url}/{name}/splits", timeout=10).json()
    split = splits[0]["name"]
    count = requests.post(f"{url}/{name}/num_tasks", json={"split": split}, timeout=10).json()["num_tasks"]
    task = requests.post(f"{url}/{name}/task", json={"split": split, "index": 0}, timeout=10).json()["task"]
    some = requests.post(f"{url}/{name}/task_range", json={"split": split, "start": 0, "stop": 2}, timeout=10).json()
    missing = requests.post(f"{url}/{name}/task", json={"split": split, "index": count}, timeout=10)
    assert some["tasks"][0] == task
    assert missing.status_code == 400, missing.text
    assert requests.get(f"{url}/nowhere/splits", timeout=10).status_code == 404
    return task


def sync_client(url):
    """Play the start of an episode with the synchronous client, on a task from the task routes."""
    task = a_task(url)
    with GenericEnvClient(base_url=url).sync() as env:
        first = env.reset(**task, episode_id="from openenv")
        assert (first.done, first.reward) == (False, None), first
        assert first.observation["prompt"]
        state = env.state()
        assert (state["episode_id"], state["step_count"], state["task_id"]) == ("from openenv", 0, task["task_id"])
        stepped = env.step(GenericAction(text="a reply that says nothing of use"))
        assert isinstance(stepped.reward, float)
        assert stepped.metadata["state_key"]
        assert env.state()["step_count"] == 1
        again = env.reset(**task)
        assert again.observation == first.observation


async def async_client(url):
    """Check that several sessions of one client have different episodes. Play one episode to its end."""
    async with GenericEnvClient(base_url=url) as env:
        others = [await env.new_session() for _ in range(3)]
        firsts = await asyncio.gather(*(each.reset(seed=seed) for seed, each in enumerate((env, *others))))
        assert len({first.metadata["task_id"] for first in firsts}) == 4
        result, steps = firsts[0], 0
        while not result.done:
            result = await env.step({"text": "still"})
            steps += 1
        assert result.observation["truncated"] or result.observation["terminated"]
        assert steps == (await env.state())["step_count"]


async def refusal(call):
    """Return the message of the client's error for a call that the server refuses."""
    try:
        await call
    except RuntimeError as error:
        return str(error)
    raise AssertionError("the server accepted the call")


async def errors(url):
    """Check that errors are reported, and that the session continues after an error."""
    async with GenericEnvClient(base_url=url) as env:
        assert "Server error" in await refusal(env.step({"text": "before a reset"}))
        assert "no such split" in await refusal(env.reset(split="no such split"))
        await env.reset(seed=1)
        for action in ({}, {"text": 5}, {"text": "x", "nonsense": 1}):
            assert "VALIDATION_ERROR" in await refusal(env.step(action)), action
        assert (await env.state())["step_count"] == 0
        assert (await env.step({"text": "still"})).observation["step"] == 1


async def mcp_client(url):
    """Check the MCP client: list of tools, calls of tools, and the state of the session."""
    async with MCPToolClient(base_url=url) as env:
        tools = {tool.name: tool for tool in await env.list_tools()}
        assert set(tools) == {"start_episode", "act"}, tools
        assert tools["act"].input_schema["required"] == ["text"]
        first = await env.call_tool("start_episode", seed=5)
        assert first["observation"]["step"] == 0
        assert first["done"] is False
        stepped = await env.call_tool("act", text="still")
        assert stepped["observation"]["step"] == 1
        state = await env.state()
        assert state.step_count == 1, state
        assert "nothing" in await refusal(env.call_tool("nothing"))
        assert "txt" in await refusal(env.call_tool("act", txt="up"))


def validation(url):
    """Check the running server with OpenEnv's own validator."""
    report = validate_running_environment(url)
    failed = [criterion for criterion in report["criteria"] if not criterion["passed"]]
    assert report["passed"], failed
    assert not failed, failed


CHECKS = {
    "sync client": sync_client,
    "async client": lambda url: asyncio.run(async_client(url)),
    "errors": lambda url: asyncio.run(errors(url)),
    "mcp client": lambda url: asyncio.run(mcp_client(url)),
    "validator": validation,
}


def main():
    """Run all checks. Print check → "ok" or a stack trace."""
    results = {}
    for name, check in CHECKS.items():
        try:
            check(sys.argv[1])
            results[name] = "ok"
        except BaseException:
            results[name] = traceback.format_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
