"""Suites in a network: the one of 2003 carries it all the same, two never mix, and nobody is talked down.

caller --- r1 --- r2 --- exit      tests/sim/scene.py
"""

from __future__ import annotations

from collections import Counter

import pytest

from anonnet.crypto.hop import HopInitiator
from anonnet.crypto.suite import ANONNET_2026, SUITE_NAMES, Suite, load_suite
from anonnet.proto.link import Link, LinkState
from anonnet.sim.clock import SECOND
from anonnet.sim.world import World
from anonnet.spec import DatagramType
from anonnet.wire import signal
from anonnet.wire.control import Reason
from tests.sim.scene import CHAIN, CHAIN_LINKS, Attempt, Traffic, links_up, up

ANONNET_2003 = load_suite("anonnet-2003")
BOTH = [ANONNET_2026, ANONNET_2003]


def chain_of(suite: Suite, profile: str = "t1") -> World:
    world = World(profile=profile)
    world.build(CHAIN, CHAIN_LINKS, ["exit"], suites=dict.fromkeys(CHAIN, suite))
    assert world.run(30 * SECOND, lambda: links_up(world))
    return world


def only_link(world: World, name: str) -> Link:
    (link,) = world.nodes[name].core.links.values()
    return link


@pytest.mark.parametrize("profile", ["modem", "t1"])
def test_the_suite_of_2003_carries_packets_through_three_hops(profile: str) -> None:
    world = chain_of(ANONNET_2003, profile)
    up(world, wait=120 * SECOND)
    traffic = Traffic(world, interval=SECOND, size=200)
    world.run(20 * SECOND)
    traffic.stop()
    world.run(5 * SECOND)
    assert traffic.out == list(range(traffic.sent))
    assert traffic.back == traffic.out[-len(traffic.back) :]
    assert len(traffic.back) > 12


def test_its_keys_change_without_a_pause() -> None:
    world = chain_of(ANONNET_2003, "64k")
    up(world, wait=120 * SECOND)
    before = {name: set(world.nodes[name].plane._sessions) for name in CHAIN}
    traffic = Traffic(world, interval=SECOND, size=200)
    world.run(130 * SECOND)
    traffic.stop()
    world.run(5 * SECOND)
    assert traffic.out == list(range(traffic.sent))
    assert not any(set(world.nodes[name].plane._sessions) <= before[name] for name in CHAIN)


@pytest.mark.parametrize(("here", "there"), [(0, 1), (1, 0)])
def test_nodes_of_different_suites_refuse_and_say_why(here: int, there: int) -> None:
    world = World(profile="t1")
    world.network.trace = []
    world.build(["a", "b"], [("a", "b")], [], suites={"a": BOTH[here], "b": BOTH[there]})
    world.run(60 * SECOND)
    for name, ours, theirs in (("a", BOTH[here], BOTH[there]), ("b", BOTH[there], BOTH[here])):
        link = only_link(world, name)
        assert link.state is not LinkState.UP
        assert f"uses suite {theirs.name}, this node {ours.name}" in link.trouble
    kinds = Counter(sent.kind for sent in world.network.trace)
    assert set(kinds) == {DatagramType.INITIATION}  # silence: neither answered the other
    assert kinds[DatagramType.INITIATION] > 4


def test_a_node_that_changes_its_suite_back_is_taken_again() -> None:
    world = World(profile="t1")
    world.build(["a", "b"], [("a", "b")], [], suites={"b": ANONNET_2003})
    world.run(20 * SECOND)
    world.nodes["b"].stop()
    world.nodes["b"].suite = ANONNET_2026
    world.nodes["b"].start()
    assert world.run(20 * SECOND, lambda: links_up(world))
    assert only_link(world, "a").trouble == only_link(world, "b").trouble == ""


@pytest.mark.parametrize("network", BOTH, ids=lambda suite: suite.name)
@pytest.mark.parametrize("alone", [True, False], ids=["the relay before alone", "with the hop's help"])
def test_relays_cannot_change_a_routes_suite(network: Suite, alone: bool) -> None:
    """r1 puts a handshake of the other suite in the place of the caller's; r2 may even answer in it."""
    other = next(suite for suite in BOTH if suite is not network)
    world = chain_of(network)
    r1, r2 = world.nodes["r1"], world.nodes["r2"]
    honest = r1.core.relay._extend
    swapped = []

    def extend(handle: int, message: signal.Extend, now: int) -> None:
        target = r2.known(r2)
        false = HopInitiator(other, target.onion_public, target.node_id).message
        swapped.append(message.handshake)
        honest(handle, signal.Extend(message.next_hop, false), now)

    r1.core.relay._extend = extend  # type: ignore[method-assign]
    if not alone:
        r2.core.relay._suite = other
    attempt = Attempt(world, ("r1", "r2", "exit"))
    world.run(20 * SECOND)
    assert swapped  # the control: it was tried
    assert attempt.reason is Reason.BAD_HANDSHAKE
    assert not attempt.ready
    assert len(attempt.route.streams) == 1  # r1, and nobody beyond it


def test_every_suite_has_been_tried_here() -> None:
    assert {suite.code for suite in BOTH} == set(SUITE_NAMES)
