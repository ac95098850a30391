"""Several circuits at once: what must not be linked leaves by different addresses, and fails apart.

       .-- a1 --- a2 --- x1
caller +                            two rows, an exit each
       '-- b1 --- b2 --- x2
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from ipaddress import IPv4Address
from itertools import pairwise

import pytest

from anonnet.proto.exits import LINGER_NS
from anonnet.proto.isolation import Isolation
from anonnet.proto.keeper import CircuitState
from anonnet.proto.keepers import Wanted
from anonnet.sim.clock import MS, SECOND
from anonnet.sim.world import World
from anonnet.spec import INNER4_CALLER
from tests.sim.scene import CHAIN, CHAIN_LINKS, all_holdings, links_up, number_of, packet

NAMES = ("caller", "a1", "a2", "x1", "b1", "b2", "x2")
ROWS = (("a1", "a2", "x1"), ("b1", "b2", "x2"))
LINKS = tuple(link for row in ROWS for link in pairwise(("caller", *row)))
SERVERS = ("203.0.113.9", "203.0.113.10")
TWO = Wanted(None, 3, 1, circuits=2, isolate=Isolation.DESTINATION)


def network(names: tuple[str, ...] = NAMES, links: tuple[tuple[str, str], ...] = LINKS) -> World:
    world = World(1, "t1")
    world.build(names, links, [name for name in names if name in ("x1", "x2", "exit")])
    assert world.run(30 * SECOND, lambda: links_up(world)), "links did not come up"
    return world


def want(world: World, wanted: Wanted) -> None:
    caller = world.nodes["caller"]
    caller.core.keepers.want(wanted, caller.now)
    caller.wake()


def up(world: World, wanted: Wanted, wait: int = 30 * SECOND) -> None:
    """Open circuits and wait for all of them."""
    keepers = world.nodes["caller"].core.keepers
    want(world, wanted)
    assert world.run(wait, lambda: keepers.complete), keepers.trouble


def exits_of(world: World) -> list[str]:
    """Names of the circuits' exits, by number."""
    return [keeper.routes[0].path[-1].name for keeper in world.nodes["caller"].core.keepers.all]


class Talk:
    """Numbered packets to both servers, each of which answers; who was seen where."""

    def __init__(self, world: World, dscp: int = 0) -> None:
        self.world = world
        self.seen: dict[str, set[tuple[str, str]]] = defaultdict(set)  # server -> exit, pool address
        self.came: dict[str, list[int]] = defaultdict(list)  # server -> when packets came out
        self.back: dict[str, list[int]] = defaultdict(list)  # server -> when answers came
        self._dscp = dscp
        self._sent = 0
        for name in world.nodes:
            world.nodes[name].on_packet = lambda role, data, name=name: self._at(name, role, data)  # type: ignore[misc]
        self._send()

    def _send(self) -> None:
        for server in SERVERS:
            data = bytearray(packet(INNER4_CALLER, server, self._sent, 300))
            data[1] = self._dscp << 2  # the checksum is nobody's business here
            self.world.nodes["caller"].send("caller", bytes(data))
        self._sent += 1
        self.world.at(self.world.now + 20 * MS, self._send)

    def _at(self, name: str, role: str, data: bytearray) -> None:
        source, target = (str(IPv4Address(bytes(data[at : at + 4]))) for at in (12, 16))
        if role == "caller":
            self.back[source].append(self.world.now)
            return
        self.seen[target].add((name, source))
        self.came[target].append(self.world.now)
        answer = bytearray(packet(target, source, number_of(data), 300))
        answer[20:24] = data[22:24] + data[20:22]  # ports
        self.world.nodes[name].send("exit", bytes(answer))

    def longest_pause(self, server: str, since: int) -> int:
        times = [since, *(at for at in self.back[server] if at >= since), self.world.now]
        return max(later - earlier for earlier, later in pairwise(times))


def test_two_destinations_leave_by_two_exits_and_a_lost_circuit_costs_the_other_nothing() -> None:
    world = network()
    before = all_holdings(world)
    up(world, replace(TWO, distinct_exits=True))
    assert sorted(exits_of(world)) == ["x1", "x2"]
    talk = Talk(world, dscp=46)
    world.run(2 * SECOND)
    (one,), (other,) = (talk.seen[server] for server in SERVERS)
    assert one[0] != other[0]
    assert min(len(talk.back[server]) for server in SERVERS) > 90
    assert world.nodes["caller"].plane._callers.counts == [1, 1]

    # All routes of the second circuit die, for long enough that it is given up.
    struck, (_, victim) = world.now, exits_of(world)
    world.nodes[victim].stop()
    world.run(15 * SECOND)
    keepers = world.nodes["caller"].core.keepers
    assert [k.state for k in keepers.all] == [CircuitState.UP, CircuitState.CONNECTING]
    assert keepers.state is CircuitState.UP
    lucky, unlucky = SERVERS if one[0] != victim else SERVERS[::-1]
    assert talk.longest_pause(lucky, struck) <= 60 * MS
    assert len(talk.back[unlucky]) == sum(at < struck + 100 * MS for at in talk.back[unlucky])
    assert len(talk.seen[lucky]) == len(talk.seen[unlucky]) == 1  # it waits, and goes nowhere else

    world.nodes[victim].start()
    assert world.run(60 * SECOND, lambda: keepers.complete)
    came = len(talk.back[unlucky])
    world.run(2 * SECOND)
    assert len(talk.back[unlucky]) - came > 90
    assert {name for name, _ in talk.seen[unlucky]} == {victim}

    keepers.drop()
    world.nodes["caller"].wake()
    world.run(LINGER_NS + 5 * SECOND)
    assert all_holdings(world) == before


def test_one_exit_gives_each_circuit_an_address_and_an_even_share_of_the_links() -> None:
    world = network(CHAIN, CHAIN_LINKS)
    up(world, replace(TWO, circuits=3))
    rates = [keeper.routes[0].rate[0] for keeper in world.nodes["caller"].core.keepers.all]
    assert max(rates) - min(rates) <= max(rates) // 100
    (first,) = world.nodes["caller"].core.neighbours
    assert sum(rates) > 0.95 * first.budget.capacity_out
    talk = Talk(world)
    world.run(SECOND)
    assert len({address for server in SERVERS for _, address in talk.seen[server]}) == 2


def test_more_circuits_make_room_and_fewer_leave_the_rest_alone() -> None:
    world = network(CHAIN, CHAIN_LINKS)
    up(world, Wanted(None, 3, 1))
    talk = Talk(world)
    up(world, TWO)
    started = world.now
    world.run(2 * SECOND)
    rates = [keeper.routes[0].rate[0] for keeper in world.nodes["caller"].core.keepers.all]
    assert max(rates) - min(rates) <= max(rates) // 100
    assert all(talk.longest_pause(server, started) <= 1000 * MS for server in SERVERS)
    kept = SERVERS[[len(talk.seen[server]) for server in SERVERS].index(1)]
    want(world, Wanted(None, 3, 1))
    cut = world.now
    world.run(2 * SECOND)
    assert talk.longest_pause(kept, cut) <= 1000 * MS
    assert len(world.nodes["caller"].plane._callers.circuits) == 1
    (route,) = world.nodes["caller"].core.keepers.routes
    assert route.rate[0] > 1.8 * rates[0]


def test_an_exit_of_its_own_or_none() -> None:
    world = network(CHAIN, CHAIN_LINKS)
    keepers = world.nodes["caller"].core.keepers
    want(world, replace(TWO, distinct_exits=True))
    assert not world.run(10 * SECOND, lambda: keepers.complete)
    assert keepers.trouble == "circuit 2: no exit is left that no other circuit has"
    assert keepers.state is CircuitState.UP


def test_auto_takes_a_common_exit_when_the_other_is_dead() -> None:
    names = ("caller", "r1", "r2", "x1", "x2")
    world = network(names, (("caller", "r1"), ("r1", "r2"), ("r2", "x1"), ("r2", "x2")))
    world.nodes["x2"].stop()
    world.run(5 * SECOND)
    up(world, TWO, 60 * SECOND)
    assert exits_of(world) == ["x1", "x1"]


@pytest.mark.parametrize("answering", [True, False])
def test_an_exit_cannot_try_the_connections_of_the_other(answering: bool) -> None:
    """Two exits in one hand: a guess at a packet of the one's traffic is put into the other's circuit."""
    world = network()
    up(world, TWO)
    talk = Talk(world)
    world.run(SECOND)
    (mine,), (other,) = (talk.seen[server] for server in SERVERS)
    world.nodes["caller"].on_packet = lambda role, data: got.append(bytes(data))
    got: list[bytes] = []
    guess = bytearray(packet(SERVERS[0], (mine if answering else other)[1], 10**6, 200))
    guess[20:24] = guess[22:24] + guess[20:22]
    world.nodes[(mine if answering else other)[0]].send("exit", bytes(guess))
    world.run(SECOND)
    assert any(number == 10**6 for number in map(_number, got)) is answering


def _number(data: bytes) -> int:
    return int.from_bytes(data[28:36], "big")
