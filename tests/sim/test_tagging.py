"""A relay that cheats: nobody but the ends of the route can tell, and they see only losses.

caller --- r1 (cheats, both ways) --- r2 (honest, watched) --- exit (honest, watched)
"""

from __future__ import annotations

from collections import deque
from functools import partial
from random import Random
from typing import Any

import pytest

from anonnet.proto import orders as o
from anonnet.proto.lane import PlaneLink
from anonnet.proto.plane import Plane
from anonnet.proto.slots import Skip, Take
from anonnet.sim.clock import MS, SECOND
from anonnet.sim.world import World
from anonnet.spec import ROUTE_NULL, SLOT_MASK
from anonnet.wire.cell import CELL_HEADER, CellRow
from tests.sim.scene import Traffic, chain, hop_route, own_route, up

SHARE = 0.05  # of the cells are tampered with


class Cheat(Plane):
    """Honest until `cheating`; then `tamper` may do what it likes with a cell that is about to be sealed."""

    cheating = False
    count = 0

    def _on_ExtendRelayRoute(self, order: o.ExtendRelayRoute) -> None:  # noqa: N802
        super()._on_ExtendRelayRoute(order)
        for _, lane, _ in self._lanes_of[order.route]:
            lane.take = partial(self._take, lane.take, Random(5), deque(maxlen=8))

    def _take(self, take: Take, random: Random, past: deque[bytes], tick: int) -> CellRow | None:
        row = take(tick)
        if row is not None:
            honest = bytes(row.cell)
            if self.cheating and random.random() < SHARE and len(past) == past.maxlen:
                self.count += 1
                self.tamper(row, random, past)
            past.append(honest)
        return row

    def tamper(self, row: CellRow, random: Random, past: deque[bytes]) -> None:
        """Change a cell. `past` holds those before it, as they should have been."""


class FlipBit(Cheat):
    """Anywhere in the body."""

    def tamper(self, row: CellRow, random: Random, past: deque[bytes]) -> None:
        row.body[random.randrange(len(row.body))] ^= 1 << random.randrange(8)


class FlipEverything(Cheat):
    def tamper(self, row: CellRow, random: Random, past: deque[bytes]) -> None:
        row.body[:] = random.randbytes(len(row.body))


class ReplayBody(Cheat):
    """An older cell's body under this one's slot number: a swap of which one half is shown."""

    def tamper(self, row: CellRow, random: Random, past: deque[bytes]) -> None:
        row.body[:] = random.choice(past)[8:]


class ReplayCell(Cheat):
    """An older cell, its slot number too."""

    def tamper(self, row: CellRow, random: Random, past: deque[bytes]) -> None:
        row.cell[:] = random.choice(past)


class Drop(Cheat):
    def tamper(self, row: CellRow, random: Random, past: deque[bytes]) -> None:
        CELL_HEADER.pack_into(row.cell, 0, ROUTE_NULL, 0)


class Delay(Cheat):
    """A cell goes out some slots after its time, in place of another; now and then that is a swap."""

    held: bytes | None = None

    def tamper(self, row: CellRow, random: Random, past: deque[bytes]) -> None:
        kept, self.held = self.held, bytes(row.cell)
        if kept is None:
            CELL_HEADER.pack_into(row.cell, 0, ROUTE_NULL, 0)
        else:
            row.cell[:] = kept


class Witness(Plane):
    """Honest; notes link, tick and slot number of every route cell that it is about to send."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.log: dict[int, list[tuple[int, int]]] = {}

    def _add_lane(self, link: PlaneLink, handle: int, rate: int, take: Take, skip: Skip,
                  route_id: int) -> None:  # fmt: skip
        log = self.log.setdefault(link.handle, [])

        def noted(tick: int) -> CellRow | None:
            row = take(tick)
            if row is not None:
                log.append((tick, CELL_HEADER.unpack_from(row.cell)[1]))
            return row

        super()._add_lane(link, handle, rate, noted, skip, route_id)


WATCHED = ("r2", "exit")


def run(cheat: type[Cheat], seconds: int = 40) -> tuple[World, Traffic]:
    """Carry traffic for so long, the last of it honest again."""
    world = chain(3, "t1", {"r1": cheat, "r2": Witness, "exit": Witness})
    world.network.trace = []
    up(world)
    traffic = Traffic(world, 20 * MS)
    world.run(2 * SECOND)
    plane = world.nodes["r1"].plane
    assert isinstance(plane, Cheat)
    plane.cheating = True
    world.run(seconds * SECOND)
    plane.cheating = False
    traffic.stop()
    world.run(2 * SECOND)
    return world, traffic


def logs(world: World) -> dict[tuple[str, int], list[tuple[int, int]]]:
    """What the watched relays sent: tick and slot, counted from the first (keys decide where it starts)."""
    found = {}
    for name in WATCHED:
        plane = world.nodes[name].plane
        assert isinstance(plane, Witness)
        for handle, log in plane.log.items():
            found[name, handle] = [(tick, (slot - log[0][1]) & SLOT_MASK) for tick, slot in log]
    return found


@pytest.fixture(scope="module")
def honest() -> tuple[World, Traffic]:
    return run(Cheat)


def test_the_control_an_honest_relay_loses_nothing(honest: tuple[World, Traffic]) -> None:
    world, traffic = honest
    assert traffic.out == list(range(traffic.sent))
    assert traffic.back == list(range(traffic.back[0], traffic.sent))
    assert own_route(world.nodes["caller"]).unrecognised < 20  # while the route was being built


@pytest.mark.parametrize("cheat", [FlipBit, FlipEverything, ReplayBody, ReplayCell, Drop, Delay])
def test_the_ends_see_losses_and_nobody_else_sees_anything(
    cheat: type[Cheat], honest: tuple[World, Traffic]
) -> None:
    world, traffic = run(cheat)
    plane = world.nodes["r1"].plane
    assert isinstance(plane, Cheat)
    assert plane.count > 300

    # Packets: some lost, none altered (`number_of` looks at every byte), none twice, all in order.
    for got in (traffic.out, traffic.back):
        assert sorted(set(got)) == got
        assert 0.6 * traffic.sent < len(got) < traffic.sent
    for route in (hop_route(world.nodes["exit"]), own_route(world.nodes["caller"])):
        assert route.missing > 100

    # The wire: the very same trace. Other relays: the same number of cells in the same ticks, in order.
    before, after = honest[0].network.trace, world.network.trace
    assert before is not None
    assert before == after
    honest_logs, cheated_logs = logs(honest[0]), logs(world)
    assert honest_logs.keys() == cheated_logs.keys()
    for key, log in cheated_logs.items():
        assert [slot for _, slot in log] == list(range(len(log))), "slot numbers run on"
        assert log == honest_logs[key]
