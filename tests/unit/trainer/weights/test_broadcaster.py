"""Broadcasts to receivers that implement only the protocol of `arlarena.proto.versions.directory.Broadcast`."""

import contextlib
import json
import threading
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from support.inference.inference_support import label, model, write_version

from arlarena.proto.config import ConfigError
from arlarena.proto.telemetry import Logger
from arlarena.trainer.assembly import transport_of
from arlarena.trainer.settings import TrainerSettings
from arlarena.trainer.weights.collective import Broadcaster
from arlarena.trainer.weights.transports import Collective, Http

LIMIT = timedelta(seconds=20)


@pytest.fixture
def sender():
    with contextlib.closing(Broadcaster("127.0.0.1", "gloo", torch.device("cpu"), Logger("test", "error"))) as one:
        yield one


def receive(offer, group, rank, workers, wanted, result):
    store = dist.TCPStore(offer.host, offer.port, is_master=False, wait_for_workers=False, timeout=LIMIT)
    if rank == 1:
        store.set(f"request/{store.add('requests', 1)}", f"{group} {workers + 1} {wanted}")
    described = json.loads(store.get(f"{group}/tensors"))
    if isinstance(described, str):
        result[rank] = described
        return
    members = dist.ProcessGroupGloo(dist.PrefixStore(group, store), rank, workers + 1, LIMIT)
    tensors = {}
    for name, dtype, shape in described:
        tensors[name] = torch.empty(shape, dtype=getattr(torch, dtype))
        members.broadcast(tensors[name], 0).wait()
    store.set(f"{group}/done/{rank}", "")
    result[rank] = tensors


def received_by(offer, group, workers, wanted):
    """Run `workers` receivers. Returns the tensors or the error message of each receiver, by rank."""
    result = {}
    threads = [
        threading.Thread(target=receive, args=(offer, group, rank, workers, wanted, result))
        for rank in range(1, workers + 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return result


def equal(result, directory):
    expected = load_file(directory / "model.safetensors")
    return result.keys() == expected.keys() and all(result[name].equal(value) for name, value in expected.items())


def test_all_workers_of_all_replicas_receive_all_tensors(sender, tmp_path):
    first = write_version(tmp_path, model(1), 1)
    offer = sender.offer(first)
    for group, workers in (("a", 2), ("b", 1)):
        result = received_by(offer, group, workers, label(first))
        assert len(result) == workers
        assert all(equal(one, first) for one in result.values())


def test_only_the_two_newest_versions_are_sent(sender, tmp_path):
    first, second, third = (write_version(tmp_path, model(step), step) for step in (1, 2, 3))
    for version in (first, second, third):
        offer = sender.offer(version)
    (why,) = received_by(offer, "late", 1, label(first)).values()
    assert label(first) in why
    assert label(third) in why
    assert equal(received_by(offer, "before", 1, label(second))[1], second)
    assert equal(received_by(offer, "newest", 1, label(third))[1], third)


def test_a_malformed_request_does_not_stop_the_broadcaster(sender, tmp_path):
    first = write_version(tmp_path, model(1), 1)
    offer = sender.offer(first)
    store = dist.TCPStore(offer.host, offer.port, is_master=False, wait_for_workers=False, timeout=LIMIT)
    store.set(f"request/{store.add('requests', 1)}", "what")
    assert equal(received_by(offer, "next", 1, label(first))[1], first)


def test_the_setting_selects_the_transport():
    log = Logger("test", "error")
    with contextlib.closing(transport_of(TrainerSettings(push_transport="gloo", device="cpu"), log)) as gloo:
        assert isinstance(gloo, Collective)
    assert isinstance(transport_of(TrainerSettings(push_transport="http"), log), Http)
    with pytest.raises(ConfigError, match="needs a GPU"):
        transport_of(TrainerSettings(push_transport="nccl", device="cpu"), log)
