"""What one user can do to the others: AnonNet's rule beside PipeNet's (`python -m anonnet.sim.pipenet`).

    a ---.
          r1 ---.
    b ---'       r2 --- x       a, b and c each have a circuit to the exit x
    c --- s1 ---'

PipeNet 1.1 (W. Dai, 1998) has every node wait until all its links have brought all the cells of a tick before
any cell of the next goes out, so that withholding cells teaches nothing. Whoever is silent stops the network,
and whoever is late sets its pace. AnonNet puts substitutes in the place of what did not come.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from random import Random
from typing import Final

import click

from anonnet.proto.lane import PlaneLink
from anonnet.proto.pacer import Beat
from anonnet.sim.clock import MS, SECOND
from anonnet.sim.network import steady
from anonnet.sim.setup import links_up, open_route
from anonnet.sim.simnode import Reference
from anonnet.sim.traffic import SERVER, number_of, packet
from anonnet.sim.world import World
from anonnet.spec import INNER4_CALLER

NAMES: Final = ("a", "b", "c", "r1", "r2", "s1", "x")
LINKS: Final = (("a", "r1"), ("b", "r1"), ("r1", "r2"), ("r2", "x"), ("c", "s1"), ("s1", "r2"))
PATHS: Final = {"a": ("r1", "r2", "x"), "b": ("r1", "r2", "x"), "c": ("s1", "r2", "x")}
PROFILE: Final = "600k:wide"  # one for all: PipeNet knows one rate
RATE: Final = 18_000  # millicells per second of each route, three of which fill r2's link with x
AHEAD: Final = 2  # ticks by which a node may run ahead: cells travel for a while, and nodes tick by turns
SIZE: Final = 500
FULL_NS: Final = 20 * MS  # between packets: more than the circuit carries ...
LIGHT_NS: Final = 50 * MS  # ... and about half of it
LATE_NS: Final = 200 * MS
SETTLE_NS: Final = 3 * SECOND
_FLOW: Final = 10**9

WELL: Final = "all well"
MISHAPS: Final = {  # who is struck, silent (else late), and whose circuits do not go through it
    WELL: ("", False, "abc"),
    "caller b silent": ("b", True, "ac"),
    "caller b late": ("b", False, "ac"),
    "relay s1 silent": ("s1", True, "ab"),
    "relay s1 late": ("s1", False, "ab"),
}


def _brought(link: PlaneLink) -> int:
    return link.received + sum(session.received for session in link.sessions.values())


class Waiting(Reference):
    """PipeNet's rule: nothing goes out before everything has come in. It holds from `begin` on."""

    _begun: dict[PlaneLink, int] | None = None  # what each link had brought when the rule began
    _rounds = 0

    def begin(self) -> None:
        """Every link there is now is waited for from now on, whatever becomes of it."""
        self._begun = {link: _brought(link) for link in self.links.values()}

    def _complete(self) -> bool:
        return self._begun is None or all(
            _brought(link) - had >= (self._rounds - AHEAD) * link.outbox.count
            for link, had in self._begun.items()
        )

    def prepare(self, beat: Beat) -> list[PlaneLink]:
        """Seal the next tick, or let it wait, and with it every slot in it."""
        if self._complete():
            self._rounds += self._begun is not None
            return super().prepare(beat)
        self._convoys[beat].put_off(beat.tick)
        return []


@dataclass(frozen=True)
class Service:
    """What a caller gets: packets per second that came back, and round trips in ms."""

    goodput: float
    mean: float
    worst: float  # 99 of 100 are below it

    def __str__(self) -> str:
        trips = f"{self.mean:.1f} ({self.worst:.1f})" if self.goodput else "-"
        return f"{self.goodput:.2f} | {trips}"


@dataclass
class Flow:
    """Packets of one caller, each answered by the server behind the exit: what came back, and when."""

    world: World
    caller: str
    index: int
    interval: int

    def __post_init__(self) -> None:
        self.sent: list[int] = []
        self.came: list[tuple[int, int]] = []  # sent at, came back at
        self.world.nodes[self.caller].on_packet = self._back
        self._send()

    def _send(self) -> None:
        data = packet(INNER4_CALLER, SERVER, self.index * _FLOW + len(self.sent), SIZE)
        self.sent.append(self.world.now)
        self.world.nodes[self.caller].send("caller", data)
        self.world.at(self.world.now + self.interval, self._send)

    def _back(self, _role: str, data: bytearray) -> None:
        self.came.append((self.sent[number_of(data) % _FLOW], self.world.now))

    def service(self, began: int, seconds: int) -> Service:
        """What came back since."""
        trips = sorted((at - sent) / MS for sent, at in self.came if at >= began)
        if not trips:
            return Service(0, 0, 0)
        return Service(len(trips) / seconds, statistics.fmean(trips), trips[len(trips) * 99 // 100])


def serve(mishap: str, waiting: bool, interval: int, seconds: int = 20) -> dict[str, Service]:
    """Return what the others get while something befalls one; `waiting`: under PipeNet's rule."""
    struck, silent, others = MISHAPS[mishap]
    world = World(1, PROFILE)
    world.build(NAMES, LINKS, ["x"], dict.fromkeys(NAMES, Waiting if waiting else Reference))
    assert world.run(10 * SECOND, lambda: links_up(world)), "links did not come up"
    for caller, path in PATHS.items():
        open_route(world, caller, path, RATE)
    world.nodes["x"].on_packet = lambda role, data: answer(world, data)
    for node in world.nodes.values():
        if isinstance(node.plane, Waiting):
            node.plane.begin()
    flows = [Flow(world, caller, index, interval) for index, caller in enumerate(PATHS)]
    world.run(SETTLE_NS)
    strike(world, struck, silent)
    world.run(SETTLE_NS)
    began = world.now
    world.run(seconds * SECOND)
    return {flow.caller: flow.service(began, seconds) for flow in flows if flow.caller in others}


def answer(world: World, data: bytearray) -> None:
    """The server's: the same number back to where the packet came from."""
    back = packet(SERVER, str(IPv4Address(bytes(data[12:16]))), number_of(data), SIZE)
    world.nodes["x"].send("exit", back)


def strike(world: World, name: str, silent: bool) -> None:
    """One node falls silent for good, or all that it sends is late from now on."""
    if not name:
        return
    node = world.nodes[name]
    if silent:
        node.stop()
        return

    def late(random: Random, datagram: bytes) -> Sequence[int]:
        return [delay + LATE_NS for delay in steady(random, datagram)]

    for peer in node.peers:
        world.network.fates[node.address, peer.endpoint.address] = late


@click.command()
@click.option("--seconds", default=20, help="virtual, for each line of the table")
def main(seconds: int) -> None:
    """Print what circuits get under both rules while something befalls another caller or relay."""
    columns = [f"{rule}: {what}" for rule in ("AnonNet", "PipeNet") for what in ("packets/s", "ms (99 %)")]
    click.echo("| load | what befalls whom | circuit | " + " | ".join(columns) + " |")
    click.echo("|" + "---|" * 7)
    for load, interval in (("full", FULL_NS), ("half", LIGHT_NS)):
        for mishap in MISHAPS:
            ours, pipenet = (serve(mishap, waiting, interval, seconds) for waiting in (False, True))
            for caller, got in ours.items():
                click.echo(f"| {load} | {mishap} | {caller} | {got} | {pipenet[caller]} |")


if __name__ == "__main__":
    main()
