"""When memory is given back: once a crowd has left, and not before every small change."""

import gc
import weakref

from arlarena.env_server.sessions.release_memory import PeakTracker, release


def test_memory_is_given_back_once_when_a_crowd_has_left():
    tide = PeakTracker()
    seen = [tide.has_dropped(sessions) for sessions in (0, 4096, 4000, 2049, 2048, 2048, 1793, 1025, 1024, 0)]
    assert seen == [False, False, False, False, True, False, False, False, True, True]


def test_a_few_sessions_are_no_crowd():
    tide = PeakTracker()
    assert not any(tide.has_dropped(sessions) for sessions in (255, 0, 200, 0))


class Node:
    pass


def test_releasing_collects_what_only_points_at_itself():
    node = Node()
    node.itself, seen = node, weakref.ref(node)
    gc.disable()
    try:
        del node
        assert seen() is not None
        release()
        assert seen() is None
    finally:
        gc.enable()
