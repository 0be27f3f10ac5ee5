"""Plays episodes over plain HTTP, with only Python's standard library.

    .venv/bin/arlarena serve env sokoban --port 8000
    python examples/plain_http.py http://127.0.0.1:8000 --episodes 3

Opens one session, plays training tasks with the actions of the environment's expert, and closes the session.
"""

import argparse
import json
import urllib.error
import urllib.request
from typing import Any


def call(url: str, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Send one request and return the JSON of the reply. If the server reports an error, exit with its message."""
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            answer: dict[str, Any] = json.loads(reply.read() or b"{}")
            return answer
    except urllib.error.HTTPError as error:
        raise SystemExit(f"error: {json.loads(error.read())['message']}") from error


def play(url: str, session: str, index: int) -> dict[str, Any]:
    """Play one episode. Return the last reply of the server."""
    result = call(url, "POST", "/reset", {"session_id": session, "split": "train", "index": index})
    print(f"\n{result['metadata']['task_id']}\n{result['observation']['text']}")
    while not result["done"]:
        action = call(url, "GET", f"/v1/sessions/{session}/expert")["text"]
        # If the reply is lost, the step can be sent again. With the same step_index, the server plays it only once.
        step = {"session_id": session, "action": {"text": action}, "step_index": result["observation"]["step"]}
        result = call(url, "POST", "/step", step)
        print(f"{result['metadata']['action']:>6}  reward {result['reward']:+.1f}")
    return result


def main() -> None:
    """Play the episodes, and print how many are solved."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="URL of the environment server")
    parser.add_argument("--episodes", type=int, default=3, help="number of episodes")
    args = parser.parse_args()
    session = call(args.url, "POST", "/v1/sessions", {"count": 1})["sessions"][0]["session_id"]
    try:
        solved = sum(play(args.url, session, index)["metadata"]["success"] for index in range(args.episodes))
    finally:
        call(args.url, "DELETE", f"/v1/sessions/{session}")
    print(f"\nsolved {solved} of {args.episodes}")


if __name__ == "__main__":
    main()
