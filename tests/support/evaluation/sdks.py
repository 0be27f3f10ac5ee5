"""Skips tests that need a vendor's SDK."""

from typing import get_args

import pytest
from support.evaluation.imitation import Kind

KINDS: tuple[Kind, ...] = get_args(Kind)
_MODULES: dict[Kind, str] = {
    "openai": "openai", "compatible": "openai", "anthropic": "anthropic", "google": "google.genai"
}  # fmt: skip


def needs_sdk(kind: Kind) -> None:
    """Skip the test if the vendor's SDK is not installed."""
    module = _MODULES[kind]
    pytest.importorskip(module, reason=f"{module} is not installed (make setup EXTRA=eval)")
