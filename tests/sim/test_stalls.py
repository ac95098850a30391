"""A node that stands still for a second costs its routes that second.

caller --- r1 --- r2 --- exit
"""

from __future__ import annotations

import pytest

from anonnet.sim.clock import MS, SECOND
from anonnet.sim.world import World
from tests.sim.scene import CHAIN, Traffic, chain, up

INTERVAL = 20 * MS
# Beyond the stall itself: what waits at its ends goes out, and the way there and back.
AFTER = 250 * MS


class Timed(Traffic):
    """Notes when each packet was sent and came, both ways."""

    def __init__(self, world: World) -> None:
        self.began = world.now
        self.came: dict[int, int] = {}
        self.returned: dict[int, int] = {}
        super().__init__(world, INTERVAL, 400)
        self.on_out = lambda number: self.came.setdefault(number, world.now)

    def _at_caller(self, role: str, data: bytearray) -> None:
        super()._at_caller(role, data)
        self.returned.setdefault(self.back[-1], self.world.now)

    def sent_at(self, number: int) -> int:
        return self.began + number * INTERVAL

    def slowest(self, came: dict[int, int], since: int, until: int) -> int:
        """The longest that a packet sent in this time took, which must all have come."""
        numbers = [n for n in range(self.sent) if since <= self.sent_at(n) < until]
        lost = [n for n in numbers if n not in came]
        assert not lost, f"{len(lost)} lost, from {(self.sent_at(lost[0]) - since) / MS} ms on"
        return max(came[n] - self.sent_at(n) for n in numbers)


@pytest.mark.parametrize("profile", ["t1", "10m"])
@pytest.mark.parametrize("victim", CHAIN)
def test_a_stall_of_a_second_costs_that_second(victim: str, profile: str) -> None:
    world = chain(profile=profile)
    up(world)
    traffic = Timed(world)
    world.run(SECOND)
    routes = list(world.nodes["caller"].core.keeper.routes)
    struck = world.now
    world.nodes[victim].stall(SECOND)
    world.run(9 * SECOND)
    over = world.now
    traffic.stop()
    world.run(SECOND)
    assert world.nodes["caller"].core.keeper.routes == routes
    resumed = struck + SECOND + AFTER
    for came in (traffic.came, traffic.returned):
        before = traffic.slowest(came, traffic.began + 200 * MS, struck - 50 * MS)
        assert traffic.slowest(came, resumed, over) <= before + 20 * MS


@pytest.mark.parametrize("length", [150, 300, 950, 1300])
def test_a_stall_moves_no_queue(length: int) -> None:
    """Cells that piled up meanwhile come in at once, long before their turn: no reason to slip."""
    world = chain()
    up(world)
    world.run(SECOND)
    relays = (world.nodes[name].plane for name in ("r1", "r2"))
    queues = [queue for plane in relays for route in plane._routes.values() for queue in route.queues]
    assert len(queues) == 4
    slips = [queue.slips for queue in queues]
    world.nodes["r1"].stall(length * MS)
    world.run(5 * SECOND)
    assert [queue.slips for queue in queues] == slips
