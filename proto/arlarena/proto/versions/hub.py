"""Where a model is on this disk: its directory, or that of a repository of the Hugging Face Hub.

    local_model("runs/tiny/model")    that directory
    local_model("Qwen/Qwen3-0.6B")    the snapshot in the Hub's cache, downloaded if the cache has none

`huggingface_hub` is imported for names of repositories only. It reads HF_HOME, HF_TOKEN, HF_ENDPOINT and
HF_HUB_OFFLINE itself.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from arlarena.proto.config import ConfigError

# Formats of weights other than safetensors, and subfolders (ONNX, the original release), are not downloaded.
FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
SUBFOLDERS = ("*/*",)
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_NAME = re.compile(f"{_PART}/{_PART}")
_INDEX = "model.safetensors.index.json"


def is_hub_name(name: str) -> bool:
    """Whether `name` has the form OWNER/NAME of a repository."""
    return _NAME.fullmatch(name) is not None


def local_model(name_or_path: str | Path) -> Path:
    """The directory that holds the model `name_or_path`.

    A directory of that name comes first, then a whole snapshot of the repository's main branch in the local cache, then
    a download. A cached snapshot is not compared with the Hub, so all services of a run read the same files;
    `hf download NAME` updates it.

    Raises:
        ConfigError: there is no such directory, or the repository cannot be had; the message says why.
    """
    path, name = Path(name_or_path), str(name_or_path)
    if path.is_dir():
        return path
    if path.exists():
        raise ConfigError(f"model {name!r} is a file: give a directory in the format of Hugging Face")
    if not is_hub_name(name):
        raise ConfigError(
            f"model {name!r}: no such directory; give a directory in the format of Hugging Face, or a repository of "
            "the Hugging Face Hub as OWNER/NAME, such as Qwen/Qwen3-0.6B"
        )
    try:
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError as error:
        raise ConfigError(
            f"model {name!r}: no such directory, and repositories of the Hugging Face Hub need the package "
            "huggingface_hub: pip install huggingface_hub"
        ) from error
    if not sys.stderr.isatty():  # services log lines of JSON there
        disable_progress_bars()
    return _cached(name) or _download(name)


def _cached(name: str) -> Path | None:
    """The snapshot in the local cache, if it is whole."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

    try:
        found = snapshot_download(
            name, local_files_only=True, allow_patterns=list(FILES), ignore_patterns=list(SUBFOLDERS)
        )
    except (LocalEntryNotFoundError, IncompleteSnapshotError):
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"model {name!r}: the cache of the Hugging Face Hub cannot be read: {error}") from error
    return None if missing_files(Path(found)) else Path(found)


def _download(name: str) -> Path:
    from huggingface_hub import constants, snapshot_download

    try:
        found = Path(snapshot_download(name, allow_patterns=list(FILES), ignore_patterns=list(SUBFOLDERS)))
    except (OSError, ValueError) as error:
        raise ConfigError(f"model {name!r}: no such directory here, and {_reason(name, error)}") from error
    if missing := ", ".join(missing_files(found)):
        if constants.HF_HUB_OFFLINE:
            raise ConfigError(
                f"model {name!r}: {found} lacks {missing}, and HF_HUB_OFFLINE forbids downloads: unset it"
            )
        raise ConfigError(f"model {name!r}: the repository lacks {missing}, so it holds no model that can be served")
    return found


def _reason(name: str, error: Exception) -> str:
    """Why a repository cannot be had, and what to do."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return (
            f"the repository is gated: accept its terms at {constants.ENDPOINT}/{name} and set HF_TOKEN to a token of "
            "that account"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{constants.ENDPOINT} has no repository of this name that this account can read: correct the name or, for "
            "a private repository, set HF_TOKEN"
        )
    if isinstance(error, errors.LocalEntryNotFoundError | errors.IncompleteSnapshotError | errors.OfflineModeIsEnabled):
        cache = f"the local cache {constants.HF_HUB_CACHE} has no whole snapshot of it"
        if constants.HF_HUB_OFFLINE:
            return f"{cache} while HF_HUB_OFFLINE forbids downloads: unset it, or copy the snapshot into the cache"
        return (
            f"{cache} while {constants.ENDPOINT} does not answer: check the network, or run `hf download {name}` where "
            f"there is one and copy the cache ({error.__cause__ or error})"
        )
    return f"the download from {constants.ENDPOINT} failed: {error}"


def missing_files(folder: Path) -> list[str]:
    """What a model needs of configuration and weights, and `folder` lacks."""
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    try:
        shards = set(json.loads((folder / _INDEX).read_bytes())["weight_map"].values())
        missing += sorted(shard for shard in shards if not (folder / shard).is_file())
    except FileNotFoundError:
        missing += [] if any(folder.glob("*.safetensors")) else ["weights (*.safetensors)"]
    except (ValueError, KeyError, AttributeError, TypeError):
        missing.append(f"a readable {_INDEX}")
    return missing
