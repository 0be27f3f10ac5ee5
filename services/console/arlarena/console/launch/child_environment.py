"""Selects the environment variables that the launcher passes to its child processes.

A service gets the variables that it needs, and the variables that `[console] pass_environment` lists. The environment
server gets only one secret, its own token, because it runs programs that a model has written.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from arlarena.proto.config import FILE_SUFFIX
from arlarena.proto.text.redaction import is_secret

# The variables that every process gets: paths of programs, libraries and folders, the language, and certificates.
# `NAME*` matches all names that begin with `NAME`.
COMMON = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR", "TEMP", "TMP",
    "PYTHON*", "VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_*", "MALLOC_*", "ASAN_OPTIONS",
    "XDG_*", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SYSTEMROOT", "COVERAGE_*",
)  # fmt: skip
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
PROXIES = (*_PROXIES, *map(str.upper, _PROXIES))
HUB = ("HF_*", "HUGGING_FACE_*", "HUGGINGFACE_*", "TRANSFORMERS_*", "TOKENIZERS_*")
COMPUTE = (
    "CUDA_*", "NVIDIA_*", "NCCL_*", "GLOO_*", "UCX_*", "TORCH*", "PYTORCH_*", "TRITON_*", "CUBLAS_*", "CUDNN_*",
    "OMP_*", "MKL_*", "KMP_*", "GOMP_*", "OPENBLAS_*", "HIP_*", "ROCR_*", "ROCM_*", "HSA_*", "SAFETENSORS_*",
    "FLASHINFER_*", "RAY_*", "NVSHMEM_*", "FI_*", "RDMAV_*", "CC", "CXX", "CPATH", "LIBRARY_PATH",
)  # fmt: skip
ENVIRONMENT_SERVER = (
    *PROXIES, *HUB, "OMP_*", "ARLARENA_ENVIRONMENT_*", "ALFWORLD_DATA", "TIR_MATH_DATA", "WEBSHOP_DATA", "DOCKER_HOST",
    "CONTAINER_HOST",
)  # fmt: skip
# For each service: the variables that contain its settings, and the variables of the libraries that it uses.
SERVICES: dict[str, tuple[str, ...]] = {
    "broker": (),
    "reaper": (),
    "env_server": ENVIRONMENT_SERVER,
    # The page starts environment servers for people who play.
    "page": (*ENVIRONMENT_SERVER, "ARLARENA_CACHE_DIR", "ARLARENA_PAGE_TOKEN"),
    "inference": (*PROXIES, *HUB, *COMPUTE, "VLLM_*", "ARLARENA_INFERENCE_*"),
    "rollout": (
        *PROXIES, *HUB, "ARLARENA_ROLLOUT_*", "ARLARENA_EVALUATION_*", "ARLARENA_ENVIRONMENT_TOKEN",
        "ARLARENA_ENVIRONMENT_PODS", "ARLARENA_INFERENCE_API_KEY",
    ),
    "trainer": (
        *PROXIES, *HUB, *COMPUTE, "ARLARENA_ENVIRONMENT_TOKEN", "ARLARENA_TRAINER_METRICS_*", "WANDB_*", "MLFLOW_*",
        "TRACKIO_*",
    ),
}  # fmt: skip
# These services get only the secrets in this table. Other services also get secrets that match their patterns.
ALLOWED_SECRETS = {
    "env_server": ("ARLARENA_ENVIRONMENT_TOKEN",),
    "page": ("ARLARENA_PAGE_TOKEN",),
    "broker": (),
    "reaper": (),
}


def child_environment(service: str, environment: Mapping[str, str], extra: Collection[str] = ()) -> dict[str, str]:
    """Returns the variables of `environment` to pass to a process of `service`.

    Args:
        service: a key of `SERVICES`.
        environment: the environment variables of the launcher.
        extra: more variables to pass (`[console] pass_environment`): names, or prefixes such as `MY_*`. If `service` is
            in `ALLOWED_SECRETS`, a prefix passes no secrets, and a secret must be listed with its full name.
    """
    patterns = (*COMMON, *SERVICES[service], *extra)
    selected = {name: value for name, value in environment.items() if _matches(name, patterns)}
    if service not in ALLOWED_SECRETS:
        return selected
    allowed = (*ALLOWED_SECRETS[service], *extra)
    return {name: value for name, value in selected.items() if name in allowed or not is_secret(name, value)}


def _matches(name: str, patterns: Collection[str]) -> bool:
    """True if a pattern matches `name`. A pattern for NAME also matches NAME_FILE, the path of a file with a secret."""
    names = (name, name.removesuffix(FILE_SUFFIX))
    return any(name.startswith(pattern[:-1]) if pattern.endswith("*") else pattern in names for pattern in patterns)
