"""A day of rotation (`python -m anonnet.sim.rotation`): routes come and go, and the flow does not notice.

A packet goes each way every 100 ms through a circuit for 24 virtual hours. None may be lost, and the longest
pause may not be much longer than the ordinary: the ticks of the hops, which the routes of a circuit need not
share, and the time for which a cell that is missing is waited for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import click

from anonnet.proto import keeper
from anonnet.proto.caller import RouteState
from anonnet.sim.books import check_memory, check_slots
from anonnet.sim.clock import MS, SECOND
from anonnet.sim.setup import LINKS, NAMES, links_up
from anonnet.sim.simnode import Reference
from anonnet.sim.traffic import Traffic
from anonnet.sim.world import World

EACH: Final = 100 * MS
SIZE: Final = 100
ON_ITS_WAY: Final = 2 * SECOND  # no packet is longer under way, over the slowest of links
ROUTES: Final = 2


@dataclass
class Way:
    """One direction of the flow: what is missing, and what paused when."""

    came: int = 0
    lost: int = 0
    doubled: int = 0  # or out of order
    pause: int = 0  # ns, the longest

    _last: int = -1
    _at: int = 0

    def arrive(self, number: int, now: int) -> None:
        """A packet came."""
        if number <= self._last:
            self.doubled += 1
            return
        if self.came:
            self.lost += number - self._last - 1
            self.pause = max(self.pause, now - self._at)
        self.came += 1
        self._last, self._at = number, now

    def finish(self, sent: int, now: int) -> None:
        """The flow is over: what was sent long ago and has not come is lost."""
        self.lost += max(0, sent - ON_ITS_WAY // EACH - 1 - self._last)
        self.pause = max(self.pause, now - self._at)


@dataclass
class Rotated:
    """What a run came to."""

    sent: int
    out: Way
    back: Way
    routes: int  # that were open at one time or another
    failed: int  # that could not be built, or died


def rotate(profile: str, hours: float, routes: int = ROUTES) -> Rotated:
    """Let a circuit of so many routes carry the flow for so long."""
    world = World(1, profile)
    world.build(NAMES, LINKS, ["exit"], dict.fromkeys(NAMES, Reference))
    assert world.run(60 * SECOND, lambda: links_up(world)), "links did not come up"
    caller = world.nodes["caller"]
    kept = caller.core.keeper
    kept.want(None, 3, routes, caller.now)
    caller.wake()

    def opened() -> list[int]:
        return [route.handle for route in kept.routes if route.state is RouteState.OPEN]

    assert world.run(300 * SECOND, lambda: len(opened()) == routes), kept.trouble
    steps: list[str] = []
    kept.on_step = steps.append
    traffic, out, back = Traffic(world, EACH, SIZE), Way(), Way()
    traffic.keep = False
    traffic.on_out = lambda number: out.arrive(number, world.now)
    traffic.on_back = lambda number: back.arrive(number, world.now)
    seen: set[int] = set()
    end = world.now + int(hours * 3600 * SECOND)
    while world.now < end:
        world.run(min(5 * SECOND, end - world.now))
        seen.update(opened())
        for node in world.nodes.values():
            check_slots(node)
            check_memory(node)
    for way in (out, back):
        way.finish(traffic.sent, world.now)
    return Rotated(traffic.sent, out, back, len(seen), sum("failed" in step for step in steps))


@click.command()
@click.option("--profile", default="100k:wide", help="of every link")
@click.option("--hours", default=24.0, help="virtual")
@click.option("--routes", default=ROUTES, help="of the circuit")
def main(profile: str, hours: float, routes: int) -> None:
    """Print what became of a flow in so many hours of rotation, and of one without rotation."""
    ran = rotate(profile, hours, routes)
    least, most = (at / SECOND for at in keeper.LIFE_NS)
    click.echo(f"{hours:g} h over {profile}, {routes} routes, each living {least:g} to {most:g} s")
    click.echo(f"routes seen open   {ran.routes}; failed {ran.failed}")
    for name, way in (("to the exit", ran.out), ("back", ran.back)):
        came = f"{way.came} of {ran.sent} packets, {way.lost} lost, {way.doubled} out of order"
        click.echo(f"{name:<18} {came}, longest pause {way.pause / MS:.0f} ms")
    raise SystemExit(bool(ran.out.lost or ran.back.lost))


if __name__ == "__main__":
    main()
