"""A node that stands still for a second costs its routes that second; a caller that slept comes back.

caller --- r1 --- r2 --- exit
"""

from __future__ import annotations

import os

import pytest

from anonnet.proto.keeper import CircuitState
from anonnet.sim.clock import MS, SECOND
from anonnet.sim.world import World
from tests.sim.scene import CHAIN, Traffic, chain, up

INTERVAL = 20 * MS
SLEEP = 600 * SECOND if os.environ.get("ANONNET_FULL") else 60 * SECOND  # the exit forgets us after 30 s
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


@pytest.mark.parametrize(
    ("victim", "profile"), [*((name, "t1") for name in CHAIN), ("r1", "10m"), ("exit", "10m")]
)
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


@pytest.mark.parametrize(
    ("profile", "length", "last", "most"), [("10m", 60, 140, 700), ("t1", 80, 300, 1500)]
)  # fmt: skip
@pytest.mark.parametrize("victim", CHAIN)
def test_a_stall_in_the_middle_of_a_set_up_costs_no_route(
    victim: str, profile: str, length: int, last: int, most: int
) -> None:
    """A direction whose cells begin just then must not lose step for good: it would be given up after 8 s."""
    for moment in range(0, last, last // 14):
        world = chain(profile=profile)
        caller = world.nodes["caller"]
        caller.core.keeper.want(None, 3, 1, world.now)
        caller.wake()
        world.run(moment * MS)
        world.nodes[victim].stall(length * MS)
        up_again = world.run(most * MS, lambda: caller.core.keeper.state is CircuitState.UP)  # noqa: B023
        assert up_again, f"{victim} stood still {moment} ms after the beginning"


@pytest.mark.parametrize("length", [150, 300, 950, 1300])
def test_a_stall_moves_no_queue(length: int) -> None:
    """Cells that piled up meanwhile come in at once, long before their turn: no reason to slip."""
    world = chain()
    up(world)
    world.run(5 * SECOND)  # a new queue may slip once, to where its cells come
    relays = (world.nodes[name].plane for name in ("r1", "r2"))
    queues = [queue for plane in relays for route in plane._routes.values() for queue in route.queues]
    assert len(queues) == 4
    slips = [queue.slips for queue in queues]
    world.nodes["r1"].stall(length * MS)
    world.run(5 * SECOND)
    assert [queue.slips for queue in queues] == slips


@pytest.mark.parametrize("clock_stands", [True, False])
def test_a_caller_that_slept_comes_back_within_seconds_and_stays_up(clock_stands: bool) -> None:
    world = chain()
    up(world)
    caller = world.nodes["caller"]

    def report() -> None:
        """As in the daemon, where the data plane's counters wake control up twice a second."""
        if world.now >= asleep_until:
            caller.wake()
        world.at(world.now + SECOND // 2, report)

    asleep_until = 0
    report()
    traffic = Traffic(world, INTERVAL, 400)
    world.run(10 * SECOND)
    traffic.stop()
    asleep_until = world.now + SLEEP
    caller.suspend(SLEEP, clock_stands)
    world.run(SLEEP)
    awake = world.now
    traffic = Traffic(world, INTERVAL, 400)
    assert world.run(8 * SECOND, lambda: bool(traffic.out and traffic.back))
    print(f"traffic again {(world.now - awake) / SECOND:.1f} s after the end of the sleep")
    out, back = len(traffic.out), len(traffic.back)
    world.run(2 * SECOND)
    assert min(len(traffic.out) - out, len(traffic.back) - back) >= 95
    assert caller.core.keeper.state is CircuitState.UP
