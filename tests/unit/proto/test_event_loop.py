"""Garbage collection in processes with many concurrent requests."""

from __future__ import annotations

import gc

import pytest

from arlarena.proto.http.event_loop import THRESHOLDS, rare_garbage_collection


def test_the_garbage_collector_has_its_old_thresholds_after_the_block():
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    with rare_garbage_collection():
        assert gc.get_threshold() == THRESHOLDS != before
        assert gc.get_freeze_count() > frozen
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def test_an_error_in_the_block_also_restores_the_thresholds():
    before = gc.get_threshold()
    with pytest.raises(KeyError), rare_garbage_collection():
        raise KeyError
    assert gc.get_threshold() == before
