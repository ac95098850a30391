"""A circuit of several routes outlives its relays.

       .-- a1 --- a2 --.
caller +-- b1 --- b2 --+ exit      three routes that share no relay
       '-- c1 --- c2 --'
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from anonnet.proto.caller import RouteState
from anonnet.proto.redundancy import Redundancy
from anonnet.sim.clock import MS, SECOND
from anonnet.sim.world import World
from tests.sim.scene import Traffic, links_up

ROWS = ("a", "b", "c")
NAMES = ("caller", "exit", *(f"{row}{i}" for row in ROWS for i in (1, 2)))
LINKS = tuple(
    link for row in ROWS for link in (("caller", f"{row}1"), (f"{row}1", f"{row}2"), (f"{row}2", "exit"))
)


def open_circuit(routes: int, shares: int = 0, profile: str = "t1", seed: int = 1) -> World:
    """A network with the caller's circuit open over so many routes."""
    world = World(seed, profile)
    world.build(NAMES, LINKS, ["exit"])
    assert world.run(30 * SECOND, lambda: links_up(world)), "links did not come up"
    caller = world.nodes["caller"]
    caller.core.keeper.want(None, 3, routes, world.now, Redundancy(shares))
    caller.wake()
    assert world.run(60 * SECOND, lambda: count_open(world) == routes), caller.core.keeper.trouble
    return world


def count_open(world: World) -> int:
    """Routes that are open now."""
    return sum(route.state is RouteState.OPEN for route in world.nodes["caller"].core.keeper.routes)


class Clock:
    """Notes when packets come out at the exit, to find the longest time without any."""

    def __init__(self, world: World, traffic: Traffic) -> None:
        self._world = world
        self.times: list[int] = []
        traffic.on_out = lambda number: self.times.append(world.now)

    def longest_pause(self, since: int) -> int:
        times = [since, *(at for at in self.times if at >= since), self._world.now]
        return max(later - earlier for earlier, later in pairwise(times))


def used(world: World) -> set[str]:
    """Names of relays on the caller's open routes."""
    return {node.name for route in world.nodes["caller"].core.keeper.routes for node in route.path[:-1]}


def test_routes_share_no_relay_and_end_at_one_exit() -> None:
    world = open_circuit(3)
    routes = world.nodes["caller"].core.keeper.routes
    relays = [node.node_id for route in routes for node in route.path[:-1]]
    assert len(relays) == len(set(relays)) == 6
    assert len({route.path[-1].node_id for route in routes}) == 1
    assert len(world.nodes["exit"].plane._circuits) == 1


@pytest.mark.parametrize(("routes", "least"), [(2, 1.8), (3, 2.6)])
def test_throughput_adds_up(routes: int, least: float) -> None:
    came = {}
    for count in (1, routes):
        world = open_circuit(count)
        traffic = Traffic(world, interval=1500_000, size=1400)  # far more than three routes hold
        world.run(SECOND)
        before = len(traffic.out)
        world.run(4 * SECOND)
        came[count] = len(traffic.out) - before
        assert traffic.out == sorted(traffic.out)
    assert came[routes] >= least * came[1]


@pytest.mark.parametrize(
    ("shares", "longest"), [(0, 2000 * MS), (1, 200 * MS), (2, 200 * MS)], ids=["stripe", "mirror", "2-of-3"]
)
@pytest.mark.parametrize("how", ["killed", "frozen", "cut"])
def test_each_relay_in_turn(shares: int, longest: int, how: str) -> None:
    """Whatever happens to one relay, packets go on coming, and the route is replaced or comes back."""
    world = open_circuit(3, shares)
    traffic = Traffic(world, interval=10 * MS, size=500)
    clock = Clock(world, traffic)
    world.run(2 * SECOND)
    # Every relay is killed in turn; a first and a second relay stand for the rest of those that live on.
    for victim in sorted(used(world))[: 6 if how == "killed" else 2]:
        node = world.nodes[victim]
        struck = world.now
        sent = traffic.sent
        if how == "killed":
            node.stop()
        elif how == "frozen":
            node.stall(4 * SECOND)
        else:
            others = [other.address for other in world.nodes.values() if other is not node]
            cut = {
                pair: lambda _r, _d: ()
                for other in others
                for pair in ((node.address, other), (other, node.address))
            }
            world.network.fates.update(cut)
        world.run(4 * SECOND)
        if how == "killed":
            node.start()
        elif how == "cut":
            world.network.fates.clear()
        assert clock.longest_pause(struck) <= longest, victim
        assert world.run(40 * SECOND, lambda: count_open(world) == 3), f"no third route after {victim}"
        lost = traffic.sent - sent - len([n for n in traffic.out if n >= sent])
        if shares:  # in flight still, at most; a packet lost before the end would show as a gap
            assert lost <= 30
    assert traffic.out == sorted(set(traffic.out))


def test_losing_every_route_keeps_the_circuit_for_its_return() -> None:
    """Both ends hold the circuit, so that the connections inside find the same exit address again."""
    world = open_circuit(1)
    traffic = Traffic(world, interval=20 * MS, size=400)
    world.run(SECOND)
    pool = dict(world.nodes["exit"].plane._by_pool)
    (first,) = used(world) & {"a1", "b1", "c1"}
    world.nodes[first].stop()
    before = len(traffic.out)
    world.run(8 * SECOND)
    assert count_open(world) == 1
    assert len(traffic.out) > before
    assert world.nodes["exit"].plane._by_pool == pool
