"""The life of a link: death, return, roaming, refusal. Two nodes, a link, and what happens to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random

import pytest

from anonnet.crypto.keys import NodeKeys
from anonnet.proto.link import DEAD_NS, LAST_RETRY_NS, Link, LinkState
from anonnet.proto.rekey import STALE_NS
from anonnet.sim.clock import MS, SECOND, START
from anonnet.sim.network import steady
from anonnet.sim.simnode import SimNode
from anonnet.sim.world import World
from anonnet.spec import DatagramType
from anonnet.wire.control import EchoReply
from tests.sim.scene import Traffic, chain, links_up, up

A, B = "10.1.0.1", "10.2.0.1"


def pair(profile: str = "t1", seed: int = 1, wait: bool = True) -> World:
    world = World(seed, profile)
    world.build(["a", "b"], [("a", "b")], [])
    if wait:
        assert world.run(10 * SECOND, lambda: links_up(world))
    return world


def link(node: SimNode) -> Link:
    (only,) = node.core.links.values()
    return only


def lost(_random: Random, _datagram: bytes) -> Sequence[int]:
    return ()


def cut(world: World) -> None:
    world.network.fate = lost


def mend(world: World) -> None:
    world.network.fate = steady


def received(world: World, name: str) -> int:
    (plane_link,) = world.nodes[name].plane.links.values()
    return plane_link.stats().cells_received


# -- death and return -----------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["modem", "t1", "10m"])
@pytest.mark.parametrize("who", ["a", "b"])
def test_a_restarted_neighbour_is_back_within_three_seconds(profile: str, who: str) -> None:
    world = pair(profile)
    world.run(3 * SECOND)
    world.nodes[who].stop()
    world.run(200 * MS)  # the other end has not noticed anything yet
    assert link(world.nodes["b" if who == "a" else "a"]).state is LinkState.UP
    world.nodes[who].start()
    assert world.run(3 * SECOND, lambda: link(world.nodes[who]).state is LinkState.UP)
    assert world.run(SECOND, lambda: links_up(world))
    count = received(world, "a"), received(world, "b")
    world.run(SECOND)
    assert received(world, "a") > count[0]
    assert received(world, "b") > count[1]


def test_a_dead_neighbour_is_noticed_and_tried_less_and_less_often() -> None:
    world = pair()
    world.network.trace = []
    world.nodes["b"].stop()
    died = world.now
    assert world.run(4 * SECOND, lambda: link(world.nodes["a"]).state is not LinkState.UP)
    assert DEAD_NS <= world.now - died <= DEAD_NS + SECOND
    assert "no datagrams" in link(world.nodes["a"]).trouble
    world.run(120 * SECOND)
    tries = [s.at for s in world.network.trace if s.source == A and s.kind == DatagramType.INITIATION][::2]
    pauses = [b - a for a, b in pairwise(tries)]
    assert 0.9 * SECOND < pauses[0] < 2 * SECOND
    assert all(later > 0.8 * sooner for sooner, later in pairwise(pauses))
    assert LAST_RETRY_NS <= pauses[-1] <= LAST_RETRY_NS + SECOND
    data = [s.at for s in world.network.trace if s.source == A and s.kind == DatagramType.DATA]
    assert data[-1] < died + 4 * SECOND, "no stream to a neighbour that is not there"
    world.nodes["b"].start()
    assert world.run(3 * SECOND, lambda: links_up(world)), "it opens the link itself when it comes back"


def test_a_cut_wire_kills_both_ends_and_they_find_back() -> None:
    world = pair()
    cut(world)
    assert world.run(4 * SECOND, lambda: not any(link(n).state is LinkState.UP for n in world.nodes.values()))
    world.run(30 * SECOND)
    mend(world)
    assert world.run(LAST_RETRY_NS + 3 * SECOND, lambda: links_up(world))


def test_a_short_cut_kills_nothing() -> None:
    world = pair()
    ups = []
    for _ in range(10):
        cut(world)
        world.run(1800 * MS)
        mend(world)
        world.run(SECOND)
        ups.append(links_up(world))
    assert all(ups)


def test_goodbye() -> None:
    world = pair()
    b = world.nodes["b"]
    b.core.stop(world.now)
    b.settle()
    world.run(100 * MS)
    b.stop()
    assert link(world.nodes["a"]).state is not LinkState.UP, "at once, without the wait for silence"
    assert link(world.nodes["a"]).trouble == "neighbour stopped"
    b.start()
    assert world.run(3 * SECOND, lambda: links_up(world))


@pytest.mark.parametrize("seed", range(12))
def test_both_open_at_once(seed: int) -> None:
    """The first messages cross on the wire; there is one session, and both agree on it."""
    world = pair(seed=seed, wait=False)
    assert world.run(3 * SECOND, lambda: links_up(world))
    came_up = world.now
    world.run(SECOND)
    a, b = (link(node) for node in world.nodes.values())
    assert a._rekeying._asks != b._rekeying._asks
    assert a._rekeying._channel == b._rekeying._channel
    assert came_up < START + SECOND // 2, "the first attempt was enough"


def test_both_open_again_and_again_over_a_bad_wire() -> None:
    world = World(5, "t1")
    world.build(["a", "b"], [("a", "b")], [])
    for _ in range(40):
        world.network.fate = lambda random, _: [random.randrange(60 * MS)] * (random.random() < 0.7)
        for node in world.nodes.values():
            if world.stream(str(world.now)).random() < 0.5:
                node.stop()
                node.start()
        world.run(world.stream(f"{world.now} pause").randrange(3 * SECOND))
    mend(world)
    assert world.run(LAST_RETRY_NS + 3 * SECOND, lambda: links_up(world))
    world.run(130 * SECOND)
    assert links_up(world), "a rekey later still"


@pytest.mark.parametrize("cheat", ["opener", "other"])
def test_keys_that_the_neighbour_leaves_in_use_end_the_link(cheat: str) -> None:
    """Whoever never asks for fresh keys, or never answers, cannot make the other go on with old ones."""
    world = pair("modem")
    channels = {link(node)._rekeying._channel for node in world.nodes.values()}
    (honest,) = [node for node in world.nodes.values() if link(node)._rekeying._asks != (cheat == "opener")]
    (cheater,) = [node for node in world.nodes.values() if node is not honest]
    if cheat == "opener":
        link(cheater)._rekeying._asks = False
    else:
        link(cheater)._rekeying.answer = lambda _: EchoReply(0)  # type: ignore
    assert world.run(STALE_NS + SECOND, lambda: link(honest).state is not LinkState.UP)
    assert "old keys" in link(honest).trouble
    assert world.run(20 * SECOND, lambda: links_up(world))
    assert link(honest)._rekeying._channel not in channels


@pytest.mark.parametrize("profile", ["9600", "12k", "14.4k", "28.8k"])
def test_the_slowest_links_come_up_though_both_ends_open(profile: str) -> None:
    """A question takes more than a second there: by then its sender took the other's for a newer one."""
    world = World(2, profile)
    world.build(["a", "b"], [("a", "b")], [])
    assert world.run(15 * SECOND, lambda: links_up(world))


def test_the_slowest_link_renews_its_keys_under_a_route_that_takes_all() -> None:
    """With one slot in 32 for control, that took too long, and links went down after eight minutes."""
    world = chain(profile="9600")
    up(world, wait=200 * SECOND)
    traffic = Traffic(world, 4 * SECOND // 15, 300)  # 9000 bit/s each way: more than the route carries
    for _ in range(25):  # with two changes of the route
        world.run(60 * SECOND)
        assert links_up(world)
    assert min(len(traffic.out), len(traffic.back)) > 0.5 * traffic.sent


# -- roaming --------------------------------------------------------------------------------------


def test_a_neighbour_that_moves_is_followed() -> None:
    world = chain()
    up(world)
    traffic = Traffic(world, 20 * MS)
    world.run(SECOND)
    world.move("r1", "10.99.0.1")
    world.run(SECOND)
    assert {n.core.links[1].endpoint.address for n in (world.nodes["caller"],)} == {"10.99.0.1"}
    got, back = len(traffic.out), len(traffic.back)
    world.run(2 * SECOND)
    assert links_up(world)
    assert len(traffic.out) - got > 95, "the routes over its links go on"
    assert len(traffic.back) - back > 95


@pytest.mark.parametrize("what", ["forged", "replayed", "stale"])
def test_a_stranger_is_not_followed(what: str) -> None:
    """Datagrams from another address: made up, or recorded and sent once more, or held back and overtaken."""
    world = pair()
    caught: list[bytes] = []

    def tap(_random: Random, datagram: bytes) -> Sequence[int]:
        caught.append(datagram)
        return () if what == "stale" and len(caught) % 5 == 0 else (2 * MS,)

    world.network.fates[B, A] = tap
    world.run(SECOND)
    a = world.nodes["a"]
    forged = a.plane.links[1].forged
    for datagram in caught[4::5]:
        if what == "forged":
            datagram = datagram[:20] + bytes([datagram[20] ^ 1]) + datagram[21:]  # noqa: PLW2901
        a.receive(datagram, "10.66.0.6")
    assert a.plane.links[1].endpoint.address == B
    assert link(a).endpoint.address == B
    assert (a.plane.links[1].forged > forged) == (what == "forged")
    world.run(5 * SECOND)
    assert links_up(world)


# -- refusal --------------------------------------------------------------------------------------


def test_profiles_that_differ_are_refused_and_both_are_named() -> None:
    world = World(1, "t1")
    world.build(["a", "b"], [("a", "b")], [], profiles={("a", "b"): "10m"})
    world.run(10 * SECOND)
    assert not links_up(world)
    troubles = [link(node).trouble for node in world.nodes.values()]
    full = [text for text in troubles if "there" in text]
    assert full, troubles
    schedules = [link(node).peer.schedule for node in world.nodes.values()]
    for schedule in schedules:
        assert f"in every {schedule.tick_ns / MS:.3f} ms" in full[0], "an operator sees both"
    assert all(text for text in troubles)


def test_formats_that_differ_never_meet() -> None:
    """The answer has the format of the question, which is not that of the link: it goes out all the same."""
    world = World(1, "t1")
    world.build(["a", "b"], [("a", "b")], [], profiles={("a", "b"): "1.544m:narrow"})
    world.run(10 * SECOND)
    assert not links_up(world)
    assert all("one end has wide and the other narrow" in link(n).trouble for n in world.nodes.values())


def stranger(world: World, name: str, address: str) -> SimNode:
    keys = NodeKeys.generate()
    node = SimNode(world, name, address, keys, {}, False)
    world.add(node)
    return node


def silence(world: World, who: str) -> Callable[[], int]:
    """Count what an address has sent to others than its neighbour."""
    assert world.network.trace is not None
    trace = world.network.trace
    return lambda: sum(s.source == who and s.target not in (A, B) for s in trace)


def test_the_wrong_key_meets_silence() -> None:
    """A stranger knows the address and opens a link, with a wrong idea of the key and with the right one."""
    world = pair()
    world.network.trace = []
    answers = silence(world, B)
    other = stranger(world, "other", "10.7.0.1")
    other.link_to(NodeKeys.generate(), B, "t1")
    other.link_to(world.nodes["b"].keys, B, "t1")
    sent = len(world.network.trace)
    world.run(20 * SECOND)
    opened = [s for s in world.network.trace[sent:] if s.source == "10.7.0.1"]
    assert len(opened) > 10, "it did try"
    assert answers() == 0
    assert links_up(world) is False
    assert link(world.nodes["b"]).state is LinkState.UP


def test_the_control_a_known_key_is_answered() -> None:
    world = pair()
    world.network.trace = []
    answers = silence(world, B)
    other = stranger(world, "other", "10.7.0.1")
    world.nodes["b"].link_to(other.keys, "10.7.0.1", "t1")
    other.link_to(world.nodes["b"].keys, B, "t1")
    assert world.run(5 * SECOND, lambda: links_up(world))
    assert answers() > 0
