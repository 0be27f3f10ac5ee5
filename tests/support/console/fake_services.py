"""Fake services for the tests of the launcher: the command lines and files of the four services, without torch.

`install` writes packages `arlarena.<service>` into a folder. The test puts this folder first on PYTHONPATH, so the fake
packages replace the real packages. The folder `tests` is also on PYTHONPATH. A test controls the fake services with
files in a folder (see `flag`), also during a run.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

SERVICES = ("env_server", "inference", "rollout", "trainer")
STEPS = 6
# The folder in which the test writes its flags. `install` sets it in the processes. It is not passed in an environment
# variable, because the launcher passes only a few environment variables to services.
FOLDER = Path()


def install(folder: Path, flags: Path) -> None:
    """Write the fake services to `folder`. They read their flags from the folder `flags`."""
    for service in SERVICES:
        package = folder / "arlarena" / service
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        run = "from support.console import fake_services; "
        run += f"fake_services.FOLDER = fake_services.Path({str(flags)!r}); fake_services."
        (package / "__main__.py").write_text(f"{run}main({service!r})\n")
        (package / "settings.py").write_text(f"{run}settings({service!r})\n")
        (package / "describe.py").write_text(f"{run}describe()\n")


def flag(name: str) -> str | None:
    """Return the text that the test wrote to this flag, or None without a text."""
    path = FOLDER / name
    return path.read_text() if path.exists() else None


def hold(stage: str) -> None:
    """Wait in a stage while the flag `hold-STAGE` exists. With the flag `stubborn`, record and ignore SIGTERM."""
    folder = FOLDER
    if flag(f"hold-{stage}") is None:
        return
    if flag("stubborn") is not None:
        signal.signal(signal.SIGTERM, lambda *_: (folder / "asked-to-stop").touch())
    (folder / f"held-{stage}").touch()
    while flag(f"hold-{stage}") is not None:
        time.sleep(0.02)


def settings(service: str) -> None:
    import tomllib  # only this command needs TOML

    hold("check")
    table = tomllib.loads(Path(sys.argv[1]).read_text()).get("trainer", {})
    if service == "trainer" and "recipee" in table:
        print(f"error: {sys.argv[1]}: [trainer] unknown key 'recipee'; did you mean 'recipe'?", file=sys.stderr)
        sys.exit(2)
    print("ok")


def describe() -> None:
    print(description())


def description() -> str:
    """Return the reply of a Sokoban server to /v1/info, with the fields that the launcher reads."""
    splits = [("train", None, False), ("validation", None, False), ("test", 512, True)]
    text = {"name": "", "version": "", "text": "", "description": ""}
    info = {
        "name": "sokoban", "version": "1", "description": "", "template": text, "parser": text, "rewards": {},
        "horizon": 15, "actions": None, "options": {}, "capabilities": ["expert"],
        "splits": [{"name": n, "type": n, "size": size, "evaluation": held} for n, size, held in splits],
    }  # fmt: skip
    return json.dumps(info)


class Arguments:
    """A command line as attributes. argparse is not used, because its import takes a fifth of a process's run time."""

    resume = False
    out = run_dir = host = port = config = episodes = weights_root = ""

    def __init__(self, given: list[str]) -> None:
        self.words: list[str] = []
        rest = iter(given)
        for argument in rest:
            if not argument.startswith("--"):
                self.words.append(argument)
            elif argument == "--resume":
                self.resume = True
            else:
                setattr(self, argument.removeprefix("--").replace("-", "_"), next(rest))


def record(service: str) -> None:
    """Append the process id and the command line to the file `started`, for the test."""
    with (FOLDER / "started").open("a") as file:
        file.write(json.dumps({"service": service, "pid": os.getpid(), "argv": sys.argv[1:]}) + "\n")


def main(service: str) -> None:
    record(service)
    args = Arguments(sys.argv[1:])
    word = args.words[0] if args.words else ""
    if service in ("env_server", "inference"):
        serve(service, args)
    else:
        {
            "tiny": tiny,
            "clone": clone,
            "train": train,
            "demonstrate": demonstrate,
            "evaluate": evaluate,
            "worker": worker,
        }[word](args)


def newest(root: str | None) -> str:
    found = sorted(Path(root or "/nonexistent").glob("v*/manifest.json"))
    version = (
        json.loads(found[-1].read_text())["version"] if found else {"incarnation": "initial", "step": 0, "digest": "0"}
    )
    return f"{version['incarnation']}:{version['step']}:{version['digest']}"


def serve(service: str, args: Arguments) -> None:
    # Imported only here: for the other commands, this import would take half of the start time.
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    hold({"env_server": "environment"}.get(service, service))
    version = newest(args.weights_root)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = description().encode() if self.path == "/v1/info" else b"{}"
            if self.path == "/weight_info":
                label = version if flag("forgetful") else newest(args.weights_root)
                body = json.dumps({"weight_version": label}).encode()
            self.send_response(503 if flag(f"sick-{service}") else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    try:
        server = ThreadingHTTPServer((args.host, int(args.port)), Handler)
    except OSError:
        print(f"error: port {args.port} is taken", file=sys.stderr)
        sys.exit(3)
    print(json.dumps({"event": "listening", "host": args.host, "port": server.server_address[1]}), flush=True)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server.serve_forever()


def tiny(args: Arguments) -> None:
    hold("policy")
    Path(args.out).mkdir(parents=True)


def demonstrate(args: Arguments) -> None:
    hold("demonstrations")
    Path(args.out).write_bytes(b"x")


def clone(args: Arguments) -> None:
    hold("clone")
    if said := flag("clone-fails"):
        print(json.dumps({"level": "error", "event": "clone_failed", "reason": said}), file=sys.stderr)
        print("Traceback (most recent call last):\n  File x\nValueError: deep inside", file=sys.stderr)
        sys.exit(1)
    Path(args.out).mkdir(parents=True, exist_ok=True)
    (Path(args.run_dir) / "clone.json").write_text(json.dumps({"steps": 10, "stopped": "validation"}))


def train(args: Arguments) -> None:
    hold("train")
    run = Path(args.run_dir)
    checkpoint = run / "checkpoints" / "step"
    checkpoint.parent.mkdir(exist_ok=True)
    step = int(checkpoint.read_text()) if args.resume and checkpoint.exists() else 0
    (run / "progress").mkdir(exist_ok=True)
    while step < STEPS or flag("train-on"):
        step += 1
        figures = {"step": step, "success_rate": 0.1 * step, "total_trained": 4 * step, "total_filtered": step}
        with (run / "metrics.jsonl").open("a") as file:
            file.write(
                json.dumps(figures | {"total_stale": 0, "total_dead": 0, "environment_steps": 100 * step}) + "\n"
            )
        with (run / "progress" / "train.jsonl").open("a") as file:
            file.write(json.dumps({"stage": "train", "step": step, "steps": STEPS, "success": 0.1 * step}) + "\n")
        checkpoint.write_text(str(step))
        time.sleep(0.05)
    if ending := flag("ending"):
        (run / "training.json").write_text(ending)
    folder = run / "weights" / f"v{step:06d}-abc"
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {"schema": 1, "version": {"incarnation": "i", "step": step, "digest": "abc"}, "files": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "COMMITTED").touch()


def worker(args: Arguments) -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    while True:
        print(json.dumps({"level": "info", "event": "alive"}), file=sys.stderr, flush=True)
        time.sleep(0.1)


def evaluate(args: Arguments) -> None:
    after = "after" in args.out
    hold("evaluate after" if after else "evaluate before")
    low = 0.6 if after else 0.3
    result = {
        "eval_set": {"split": "test", "first": 0, "n": 8, "attempts": 1, "seed": 0, "digest": "d"},
        "temperature": 1.0,
        "data": {"description": flag("data") or "rooms of a stand-in", "official": False},
        "success": low + 0.1,
        "ci95": [low, low + 0.2],
        "format_valid": 0.99,
        "action_valid": 0.9,
        "errors": 0,
        "return": {"mean": 1.5, "ci95": None},
        "turns": {"mean": 7.0, "ci95": None},
        "versions": ["i:6:abc" if after else "initial:0:0"],
        "results": [[index, int(index < (7 if after else 3)), 1.0, 7] for index in range(8)],
        "by_difficulty": [{"optimal_moves": 3, "n": 8, "success": low + 0.1, "ci95": [low, low + 0.2]}],
    }
    for path in (args.out, args.episodes):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(args.out).write_text(json.dumps(result))
    turn = {"turn": 0, "observation": "####\n#P_#", "response": "<think>x</think>", "action": "up", "reward": -0.1}
    episode = {"id": "e", "task": "sokoban/test/0", "success": after, "return": 1.0, "turns": [turn]}
    Path(args.episodes).write_text(json.dumps(episode) + "\n")
