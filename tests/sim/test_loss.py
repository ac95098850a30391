"""Bad weather on every link for five minutes: nothing desynchronises, nothing stays lost.

One datagram in a hundred is dropped, one is doubled, one comes 30 ms late and so out of order.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from anonnet.sim.clock import MS, SECOND
from anonnet.sim.world import World
from anonnet.spec import INNER4_CALLER
from tests.sim.scene import SERVER, Traffic, chain, hop_route, links_up, own_route, packet, up

SHARE = 0.01
LINKS = 3


def weather(random: Random, _datagram: bytes) -> Sequence[int]:
    """1 % each of loss, doubling and lateness; 2 to 3 ms otherwise."""
    draw = random.random()
    delay = 2 * MS + random.randrange(MS)
    if draw < SHARE:
        return ()
    if draw < 2 * SHARE:
        return delay, delay + random.randrange(5 * MS)
    if draw < 3 * SHARE:
        return (30 * MS,)
    return (delay,)


class Transfer:
    """Numbered packets, each sent again until it has arrived; the test itself acknowledges."""

    def __init__(self, world: World, count: int) -> None:
        self.world = world
        self.waiting = dict.fromkeys(range(count), 0)  # number -> when it was sent last
        self.sent = 0
        self.arrived: list[int] = []
        self._traffic = Traffic(world, 50 * MS, 100)  # carries acknowledgements as fast as anything else
        self._traffic.on_out = self._take
        self._step()

    def _take(self, number: int) -> None:
        if number >= 10**6:
            self.arrived.append(number - 10**6)
            self.waiting.pop(number - 10**6, None)

    def _step(self) -> None:
        late = [n for n, at in list(self.waiting.items())[:60] if self.world.now - at > SECOND]
        for number in late[:2]:
            self.waiting[number] = self.world.now
            self.sent += 1
            data = packet(INNER4_CALLER, SERVER, 10**6 + number, 1000)
            self.world.nodes["caller"].send("caller", data)
        if self.waiting:
            self.world.at(self.world.now + 20 * MS, self._step)


def test_five_minutes_of_bad_weather() -> None:
    world = chain(11, "t1")
    world.network.fate = weather
    up(world)
    fell: list[str] = []
    traffic = Traffic(world, 30 * MS)
    route = own_route(world.nodes["caller"])
    queues = [q for name in ("r1", "r2") for q in hop_route(world.nodes[name]).queues]
    for second in range(300):
        world.run(SECOND)
        if second == 4:  # a queue may make up once for the moment at which its first cell came
            slips = [q.slips for q in queues]
        if not links_up(world):
            fell.append(f"{world.now}")
    traffic.stop()
    world.run(2 * SECOND)
    assert fell == []
    assert own_route(world.nodes["caller"]) is route, "one and the same route all the time"
    rekeying = [link._rekeying for n in world.nodes.values() for link in n.core.links.values()]
    assert all(one._ask_at > world.now for one in rekeying if one._asks)
    # A packet of 900 bytes lies in one or two cells, each of which crosses three links; late is lost, at
    # relays that have a tick of patience. So a packet is lost with 1 - 0.98^(1.8 * 3), about 10 %.
    for got, sent in ((traffic.out, traffic.sent), (traffic.back, traffic.sent - traffic.back[0])):
        assert got == sorted(set(got)), "in order, none twice"
        assert 0.03 < 1 - len(got) / sent < 0.13
    assert max(slips) <= 1
    assert [q.slips for q in queues] == slips, "weather is no drift"
    assert all(q.missing < 0.03 * q.received for q in queues)


def test_a_transfer_comes_through_whole() -> None:
    world = chain(12, "t1")
    world.network.fate = weather
    up(world)
    transfer = Transfer(world, 2000)
    assert world.run(120 * SECOND, lambda: not transfer.waiting)
    assert sorted(set(transfer.arrived)) == list(range(2000))
    assert 2000 < transfer.sent < 2300


@pytest.mark.parametrize("profile", ["modem", "10m"])
def test_set_up_and_rekey_in_bad_weather(profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every control message counts here; each is a few cells, of which some are lost."""
    if profile == "10m":
        monkeypatch.setattr("anonnet.proto.rekey.REKEY_NS", 5 * SECOND)
    world = World(13, profile)
    world.network.fate = weather
    world.build(["caller", "r1", "r2", "exit"], [("caller", "r1"), ("r1", "r2"), ("r2", "exit")], ["exit"])
    assert world.run(60 * SECOND, lambda: links_up(world))
    up(world, wait=120 * SECOND)
    channels = [link._rekeying._channel for node in world.nodes.values() for link in node.core.links.values()]
    world.run(130 * SECOND if profile == "modem" else 12 * SECOND)
    assert links_up(world)
    after = [link._rekeying._channel for node in world.nodes.values() for link in node.core.links.values()]
    assert not set(channels) & set(after), "each link has fresh keys"
    assert len(set(after)) == LINKS, "and both ends the same"


def test_the_control_worse_weather_is_noticed() -> None:
    """A third of all datagrams lost: links stand, since they need but one in 2.5 s; the route is given up."""
    world = chain(14, "t1")
    up(world)
    route = own_route(world.nodes["caller"])
    world.network.fate = lambda random, _: [2 * MS] * (random.random() > 0.35)
    world.run(30 * SECOND)
    assert links_up(world)
    assert route not in world.nodes["caller"].plane._routes.values()
