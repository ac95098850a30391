"""Clocks that drift for hours (`python -m anonnet.sim.drift`): what relays' queues do about it.

Slots are numbered by the clock of the end that fills them, the caller forward and the exit backward, and
every relay emits them by its own. Over a time t, a relay whose clock differs from that end's by d comes to be

    d * t / tick        ticks ahead or behind

and makes up for each with a slip: a hold if the source is slow, a skip if it is fast. The reserve of cells
that a queue starts with may grow from one tick to three before the first skip, so the count may be less by
two, and one is always about to come. It says nothing of the relays between: their holds and skips pass along
the route, so that each sees the end's pace, if in steps of a tick.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import click

from anonnet.proto.budget import TEST_SHARE
from anonnet.proto.hops import HopRoute
from anonnet.proto.profile import parse_profile
from anonnet.proto.queue import ForwardQueue
from anonnet.sim.books import check_memory, check_slots
from anonnet.sim.clock import MS, SECOND
from anonnet.sim.setup import links_up, open_route
from anonnet.sim.simnode import Reference
from anonnet.sim.traffic import Traffic
from anonnet.sim.world import World

CHAIN: Final = ("caller", "r1", "r2", "exit")
LOOK: Final = 60 * SECOND  # how often books and queues are looked at
FEWER: Final = 3  # slips than predicted: two of reserve and one to come ...
MORE: Final = 1  # ... and the other way, but for
ECHO: Final = 8  # one in so many of another relay's


@dataclass(frozen=True)
class Slips:
    """One queue's: `predicted` ticks of drift, what the queue did, and the most that it held."""

    relay: str
    way: str
    ppm: int  # of the source against the relay
    predicted: float  # slips
    slips: int
    missing: int  # cells that were due and absent
    received: int
    most: int  # cells held
    depth: int  # cells that it can hold


@dataclass(frozen=True)
class Drifted:
    """What a run came to."""

    queues: list[Slips]
    sent: int
    out: int
    back: int
    pause: int  # ns, the longest between two packets at the exit

    @property
    def well(self) -> bool:
        """Whether all queues did as predicted and stayed within their bounds."""
        most = MORE + max(queue.predicted for queue in self.queues) / ECHO
        return all(
            -FEWER <= queue.slips - queue.predicted <= most and queue.most <= queue.depth
            for queue in self.queues
        )


def drift(profile: str, hours: float, ppm: tuple[int, ...], share: float = 1) -> Drifted:
    """Let a chain whose clocks gain so much run for so long, with one route and a packet now and then.

    `share` is the route's of what a circuit would ask for.
    """
    world = World(1, profile)
    of = dict(zip(CHAIN, ppm, strict=True))
    world.build(CHAIN, tuple(pairwise(CHAIN)), ["exit"], dict.fromkeys(CHAIN, Reference), ppm=of)
    assert world.run(300 * SECOND, lambda: links_up(world)), "links did not come up"
    schedule = parse_profile(profile).schedule("raw", 4)
    first = next(iter(world.nodes["caller"].core.neighbours)).budget
    rate = int((first.free_out - first.capacity_out // TEST_SHARE) * share)
    route = open_route(world, "caller", CHAIN[1:], rate)
    traffic = Traffic(world, 20 * schedule.tick_ns, 100)
    times: list[int] = []
    traffic.on_out = lambda number: times.append(world.now)
    began = world.now
    most: dict[tuple[str, str], int] = {}
    while world.now - began < hours * 3600 * SECOND:
        world.run(LOOK)
        for name in CHAIN:
            check_slots(world.nodes[name])
            check_memory(world.nodes[name])
        for name, way, queue in relayed(world):
            held = sum(slot >= 0 for slot in queue._filled)
            most[name, way] = max(most.get((name, way), 0), held)
    assert route.handle in world.nodes["caller"].core.caller.routes, f"the route died: {route.reason}"
    cells = (world.now - began) / SECOND * rate / 1000
    found = []
    for name, way, queue in relayed(world):
        gain = of["caller" if way == "forward" else "exit"] - of[name]
        found.append(Slips(name, way, gain, abs(gain) / 1e6 * cells / queue._tick, queue.slips,
                           queue.missing, queue.received, most[name, way], queue._mask + 1))  # fmt: skip
    pauses = [later - earlier for earlier, later in pairwise(times)]
    return Drifted(found, traffic.sent, len(traffic.out), len(traffic.back), max(pauses))


def relayed(world: World) -> list[tuple[str, str, ForwardQueue]]:
    """The queues of the one route: relay, direction, queue."""
    found = []
    for name in CHAIN[1:-1]:
        (route,) = [r for r in world.nodes[name].plane._routes.values() if isinstance(r, HopRoute)]
        ways = zip(("forward", "backward"), route.queues, strict=True)
        found += [(name, way, queue) for way, queue in ways]
    return found


@click.command()
@click.option("--profile", default="modem", help="of every link")
@click.option("--hours", default=8.0, help="virtual")
@click.option("--ppm", default=(100, -100, 100, -100), nargs=4, type=int, help="caller, r1, r2, exit")
def main(profile: str, hours: float, ppm: tuple[int, ...]) -> None:
    """Print what each queue of a route did in so many hours of drifting clocks."""
    ran = drift(profile, hours, ppm)
    click.echo("| relay | way | drift, ppm | predicted slips | slips | cells absent | of | held | bound |")
    click.echo("|" + "---|" * 9)
    for queue in ran.queues:
        click.echo(
            f"| {queue.relay} | {queue.way} | {queue.ppm} | {queue.predicted:.1f} | {queue.slips} |"
            f" {queue.missing} | {queue.received} | {queue.most} | {queue.depth} |"
        )
    click.echo(f"\n{ran.sent} packets sent, {ran.out} came out and {ran.back} back; "
               f"longest pause {ran.pause / MS:.0f} ms")  # fmt: skip
    raise SystemExit(not ran.well)


if __name__ == "__main__":
    main()
