"""Fixtures that every kind of test shares."""

import os
from pathlib import Path

import pytest

# Before torch is imported, here and in the processes that tests start: as many threads as cores in each of several
# processes make all of them many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of sample data beside the checkout; a test that needs it is skipped where it is absent."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"SHARED DATA ABSENT: {folder} does not exist, so this test did not run")
    return folder
