"""What figures of `data_plane.threads` rest on: the relay forwards, cells come from another core."""

from __future__ import annotations

import os
from dataclasses import astuple

import pytest

from anonnet.bench import caches, crew
from anonnet.proto.engine import NATIVE


@pytest.mark.parametrize("threads", [1, 2])
def test_a_relay_is_measured(threads: int) -> None:
    found = crew.measure(threads, links=2, routes=4, cells=32, ticks=3)
    assert found.threads == (threads if NATIVE else 1)
    assert found.wall == pytest.approx(found.take_in + found.seal)
    assert min(found.cpu, found.take_in, found.seal) > 0


def test_it_forwards_what_comes() -> None:
    relay = crew.Relay(crew.choose(), links=2, routes=4, cells=32)
    for _ in range(20):
        relay.tick()
    routes = relay.plane._stats(0).routes
    assert len(routes) == 4
    assert sum(route.received for route in routes) > 0.8 * 20 * 2 * 32
    assert sum(route.missing for route in routes) < 2 * 2 * 32, (
        "but for what is missing before the first cells"
    )


@pytest.mark.usefixtures("no_child_stays")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is no other core here")
def test_cells_of_another_core_are_read_and_nothing_is_left_of_it() -> None:
    cores = os.sched_getaffinity(0)
    assert min(astuple(caches.measure(20))) > 0
    assert os.sched_getaffinity(0) == cores
