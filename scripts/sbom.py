"""Writes the list of packages of each image (software bill of materials) to sbom/NAME.json, in the CycloneDX format.

    .venv-containers/bin/python -m scripts.sbom [NAME ...]

`make sbom` runs this script. The list contains the Python packages of the image's virtual environment, and the Debian
packages. The script runs on the host, so the images contain no tool for lists of packages.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from scripts.images import CPU_IMAGES, IMAGES, VERSION

OUT = Path(__file__).resolve().parents[1] / "sbom"
# Prints one line `name==version` for each package that the image's Python can import.
LIST_PYTHON = """
from importlib.metadata import distributions
print(*sorted({f"{d.name}=={d.version}" for d in distributions()}), sep="\\n")
"""
LIST_DEBIAN = ("dpkg-query", "--show", "--showformat", "${Package}=${Version}=${Architecture}\\n")


def in_image(tag: str, *command: str) -> str:
    """Run a command in a new container of the image, without a network. Return the output of the command."""
    words = ["docker", "run", "--rm", "--network", "none", "--read-only", "--entrypoint", command[0], tag, *command[1:]]
    return subprocess.run(words, check=True, text=True, stdout=subprocess.PIPE).stdout


def python_packages(tag: str) -> dict[str, Any]:
    """Return the CycloneDX document of the image's Python packages."""
    listed = in_image(tag, "python", "-c", LIST_PYTHON)
    command = [sys.executable, "-m", "cyclonedx_py", "requirements", "--output-format", "JSON", "-"]
    done = subprocess.run(command, input=listed, check=True, text=True, stdout=subprocess.PIPE)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def debian_components(listed: str) -> list[dict[str, str]]:
    """Return the CycloneDX components of the Debian packages. `listed`: output of `LIST_DEBIAN`."""
    rows = [line.split("=") for line in listed.splitlines()]
    return [
        {
            "type": "library",
            "bom-ref": f"deb-{name}-{architecture}",
            "name": name,
            "version": version,
            "purl": f"pkg:deb/debian/{name}@{version}?arch={architecture}",
        }
        for name, version, architecture in rows
    ]


def document(name: str) -> dict[str, Any]:
    """Return the CycloneDX document of an image: its Python packages and its Debian packages."""
    tag = IMAGES[name].tag(name)
    made: dict[str, Any] = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1}
    if name != "redis":
        made = python_packages(tag)
    made.setdefault("metadata", {})["component"] = {"type": "container", "name": f"arlarena/{name}", "version": VERSION}
    made["components"] = [*made.get("components", []), *debian_components(in_image(tag, *LIST_DEBIAN))]
    return made


def main() -> int:
    """Write the document of each image that the command line names. Without a name, write those of all CPU images.

    Return the exit status.
    """
    names = sys.argv[1:] or list(CPU_IMAGES)
    if unknown := [name for name in names if name not in IMAGES]:
        print(f"error: there is no image {unknown[0]!r}; known: {', '.join(IMAGES)}", file=sys.stderr)
        return 2
    OUT.mkdir(exist_ok=True)
    for name in names:
        path = OUT / f"{name}.json"
        made = document(name)
        path.write_text(json.dumps(made, indent=1) + "\n")
        print(f"{path}: {len(made['components'])} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
