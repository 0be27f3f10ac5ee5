"""Finds the local directory of a model. The model is a local directory, or a repository on the Hugging Face Hub.

    local_model("runs/tiny/model")    returns this directory
    local_model("Qwen/Qwen3-0.6B")    returns the snapshot in the Hub's local cache; downloads a missing snapshot

Only repositories need the package `huggingface_hub`. This package reads the environment variables HF_HOME, HF_TOKEN,
HF_ENDPOINT and HF_HUB_OFFLINE.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from arlarena.proto.config import ConfigError

# Downloads contain only files that match `FILES` and not `SUBFOLDERS`. Subfolders contain other formats, such as ONNX.
FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
SUBFOLDERS = ("*/*",)
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_NAME = re.compile(f"{_PART}/{_PART}")
_INDEX = "model.safetensors.index.json"


def is_hub_name(name: str) -> bool:
    """True if `name` has the form of a repository's name: OWNER/NAME."""
    return _NAME.fullmatch(name) is not None


def local_model(name_or_path: str | Path) -> Path:
    """Returns the directory of the model `name_or_path`.

    The model is the first of these that exists:
    1. the directory `name_or_path`;
    2. a complete snapshot of the repository's main branch in the local cache;
    3. a new download of the main branch.
    This function does not compare a cached snapshot with the Hub, so all services of a run read the same files. To
    update a snapshot, run `hf download NAME`.

    Raises:
        ConfigError: the model does not exist in any of these forms, or the cache cannot be read.
    """
    path, name = Path(name_or_path), str(name_or_path)
    if path.is_dir():
        return path
    if path.exists():
        raise ConfigError(f"model {name!r} is a file: give the directory of a Hugging Face model")
    if not is_hub_name(name):
        raise ConfigError(
            f"model {name!r}: no such directory; give either the directory of a Hugging Face model, or a repository of "
            "the Hugging Face Hub as OWNER/NAME, such as Qwen/Qwen3-0.6B"
        )
    try:
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError as error:
        raise ConfigError(
            f"model {name!r}: no such directory, and repositories of the Hugging Face Hub need the package "
            "huggingface_hub: pip install huggingface_hub"
        ) from error
    if not sys.stderr.isatty():  # progress bars would break the JSON log of services
        disable_progress_bars()
    return _cached(name) or _download(name)


def _cached(name: str) -> Path | None:
    """Returns the path of the snapshot in the local cache. Returns None if it is missing or incomplete.

    Raises:
        ConfigError: the cache cannot be read.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

    try:
        snapshot = snapshot_download(
            name, local_files_only=True, allow_patterns=list(FILES), ignore_patterns=list(SUBFOLDERS)
        )
    except (LocalEntryNotFoundError, IncompleteSnapshotError):
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"model {name!r}: the cache of the Hugging Face Hub cannot be read: {error}") from error
    return None if missing_files(Path(snapshot)) else Path(snapshot)


def _download(name: str) -> Path:
    from huggingface_hub import constants, snapshot_download

    try:
        snapshot = Path(snapshot_download(name, allow_patterns=list(FILES), ignore_patterns=list(SUBFOLDERS)))
    except (OSError, ValueError) as error:
        raise ConfigError(f"model {name!r}: no such directory here, and {_reason(name, error)}") from error
    if missing := ", ".join(missing_files(snapshot)):
        if constants.HF_HUB_OFFLINE:
            raise ConfigError(
                f"model {name!r}: {snapshot} lacks {missing}, and the variable HF_HUB_OFFLINE forbids downloads: unset "
                "the variable"
            )
        raise ConfigError(f"model {name!r}: the repository lacks {missing}, so its model cannot be served")
    return snapshot


def _reason(name: str, error: Exception) -> str:
    """Returns a text for a failed download: why it failed, and how the user can solve the problem."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return (
            f"the repository is gated: accept its terms at {constants.ENDPOINT}/{name} and set HF_TOKEN to a token of "
            "the account that accepted the terms"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{constants.ENDPOINT} has no repository with this name, or the repository is private: either correct the "
            "name, or set HF_TOKEN to a token of an account that may read the private repository"
        )
    if isinstance(error, errors.LocalEntryNotFoundError | errors.IncompleteSnapshotError | errors.OfflineModeIsEnabled):
        cache = f"the local cache {constants.HF_HUB_CACHE} has no complete snapshot of the repository"
        if constants.HF_HUB_OFFLINE:
            return (
                f"{cache}, and the variable HF_HUB_OFFLINE forbids downloads: either unset the variable, or copy the "
                "snapshot into the cache"
            )
        return (
            f"{cache}, and {constants.ENDPOINT} does not answer: either check the network, or run `hf download {name}` "
            f"on another machine and copy that machine's cache to this machine ({error.__cause__ or error})"
        )
    return f"the download from {constants.ENDPOINT} failed: {error}"


def missing_files(folder: Path) -> list[str]:
    """Returns what a model's directory `folder` lacks: names of configuration and weight files. [] if complete."""
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    try:
        shards = set(json.loads((folder / _INDEX).read_bytes())["weight_map"].values())
        missing += sorted(shard for shard in shards if not (folder / shard).is_file())
    except FileNotFoundError:
        missing += [] if any(folder.glob("*.safetensors")) else ["weights (*.safetensors)"]
    except (ValueError, KeyError, AttributeError, TypeError):
        missing.append(f"a readable {_INDEX}")
    return missing
