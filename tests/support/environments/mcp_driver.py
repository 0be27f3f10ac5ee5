"""Plays one episode with the client of the `mcp` package (the official SDK). Prints the results as JSON.

    .venv-openenv/bin/python tests/support/environments/mcp_driver.py http://127.0.0.1:8000/mcp

Runs in a separate Python environment (`make setup EXTRA=openenv`). It imports no module of this repository.
"""

import asyncio
import json
import sys

from mcp import ClientSession, McpError
from mcp.client.streamable_http import streamable_http_client


async def play(url):
    """Do the handshake, list the tools, play a complete episode, and cause an error. Return the results."""
    async with streamable_http_client(url) as (read, write, session_id), ClientSession(read, write) as session:
        hello = await session.initialize()
        await session.send_ping()
        tools = await session.list_tools()
        found = {
            "version": hello.protocolVersion,
            "server": hello.serverInfo.name,
            "session": session_id(),
            "tools": [tool.name for tool in tools.tools],
        }
        started = await session.call_tool("start_episode", {"split": "train", "index": 3})
        found["task"] = started.structuredContent["metadata"]["task_id"]
        found["prompt"] = started.content[0].text
        steps, result = 0, started
        while not result.structuredContent["done"]:
            result = await session.call_tool("act", {"text": "still"})
            steps += 1
        found |= {"steps": steps, "last": result.content[-1].text}
        try:
            await session.call_tool("act", {"txt": "up"})
        except McpError as error:
            found["error"] = error.error.message
        return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(play(sys.argv[1]))))
