"""The health check of all images. If the service is unhealthy, prints the problem and exits with 1.

    healthcheck.py --url http://127.0.0.1:8000/health      healthy if the server answers 200
    healthcheck.py --changed 60 FILE ...                   healthy if one of the files changed in the last 60 s
    healthcheck.py --waiting FILE ...                      also healthy while the service waits for its stage of the run

The check runs every few seconds in every container. It imports few modules, so a run takes 20 ms of CPU time.
"""

import http.client
import os
import sys
import time

WAITING_S = 30.0  # while `arlarena join` waits, it touches the file of `--waiting` every second
TIMEOUT_S = 5.0


def seconds_since_change(path: str) -> float:
    """Returns the seconds since the last change of a file, or infinity if the file does not exist."""
    try:
        return time.time() - os.stat(path).st_mtime
    except OSError:
        return float("inf")


def problem_of_server(url: str) -> str:
    """Returns the problem of a server, or "" if it is healthy."""
    host, _, path = url.removeprefix("http://").partition("/")
    try:
        connection = http.client.HTTPConnection(host, timeout=TIMEOUT_S)
        connection.request("GET", "/" + path)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"GET {url} failed: {error or type(error).__name__}"
    return "" if status == 200 else f"GET {url} answered {status}"


def problem_of_files(limit_s: float, files: list[str]) -> str:
    """Returns the problem of a service without a port, or "" if it is healthy."""
    age = min(map(seconds_since_change, files))
    return "" if age <= limit_s else f"none of {', '.join(files)} changed in the last {limit_s:g} s"


def main(arguments: list[str]) -> str:
    """Returns the problem of the service that the command line describes, or "" if it is healthy."""
    if arguments[:1] == ["--waiting"]:
        if seconds_since_change(arguments[1]) <= WAITING_S:
            return ""
        arguments = arguments[2:]
    if arguments[0] == "--url":
        return problem_of_server(arguments[1])
    return problem_of_files(float(arguments[1]), arguments[2:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) or 0)
