"""Fault schedules: what goes wrong in a simulated network, and when, all from one seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from anonnet.proto.link import DEAD_NS
from anonnet.sim.clock import MS, SECOND
from anonnet.sim.network import Network, Wire, steady
from anonnet.sim.world import World

FAULTS: Final = (3, 9)  # in one schedule, from the least to the most
WITHIN: Final = 10 * SECOND  # all of them begin in this time
LONGEST: Final = 4 * SECOND
SILENCE: Final = DEAD_NS - SECOND  # in so long a link does not die, with all that delays may add

OF_NODES: Final = ("kill", "stall", "suspend")
OF_WIRES: Final = ("cut", "loss", "delay", "jitter", "twice", "alter")
OF_CALLER: Final = ("end route", "rotate", "down and up", "redundancy", "routes")
OF_RELAYS: Final = ("relay ends route",)
KINDS: Final = OF_NODES + OF_WIRES + OF_CALLER + OF_RELAYS


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong, `after` so many ns for `lasts` ns; `node` and `wires` are names.

    `amount` is a share, a delay in ns, shares of a redundancy or a number of routes, as the kind has it.
    """

    kind: str
    after: int
    lasts: int
    node: str = ""
    wires: tuple[tuple[str, str], ...] = ()
    amount: float = 0

    def __str__(self) -> str:
        where = self.node + " ".join("->".join(wire) for wire in self.wires)
        amount = f", {self.amount:g}" if self.amount else ""
        return f"{self.after / SECOND:7.3f} s  {self.kind} {where}{amount}, {self.lasts / MS:.0f} ms"


def draw(seed: int, nodes: Sequence[str], links: Sequence[tuple[str, str]]) -> list[Fault]:
    """Return the schedule of a seed, in order of time."""
    random = Random(f"{seed} faults")
    faults = [_one(random, nodes, links) for _ in range(random.randint(*FAULTS))]
    return sorted(faults, key=lambda fault: fault.after)


def _one(random: Random, nodes: Sequence[str], links: Sequence[tuple[str, str]]) -> Fault:
    kind = random.choice(KINDS)
    after = random.randrange(WITHIN)
    lasts = int(LONGEST * random.random() ** 2) + MS  # more short ones than long ones
    if kind in OF_NODES + OF_RELAYS:
        return Fault(kind, after, lasts, random.choice(nodes))
    if kind in OF_WIRES:
        here, there = random.choice(links)
        wires = random.choice((((here, there),), ((there, here),), ((here, there), (there, here))))
        amount = {
            "cut": 0,
            "loss": random.choice((0.02, 0.1, 0.3, 0.6)),
            "delay": random.choice((5, 20, 80, 300)) * MS,
            "jitter": random.choice((10, 50, 200)) * MS,
            "twice": random.choice((0.05, 0.5, 1)),
            "alter": random.choice((0.05, 0.5, 1)),
        }[kind]
        return Fault(kind, after, lasts, wires=wires, amount=amount)
    amounts = {"redundancy": random.choice((0, 1, 2)), "routes": random.choice((1, 2, 3))}
    return Fault(kind, after, lasts, "caller", amount=amounts.get(kind, 0))


class Weather:
    """What the wire faults that go on now do to each datagram. One that no fault touches is left alone."""

    def __init__(self, network: Network, addresses: dict[str, str]) -> None:
        self._network = network
        self._addresses = addresses
        self._active: dict[Wire, list[Fault]] = {}

    def wires(self, fault: Fault) -> list[Wire]:
        """The addresses of a fault's wires."""
        return [(self._addresses[here], self._addresses[there]) for here, there in fault.wires]

    def begin(self, fault: Fault) -> None:
        """A fault begins."""
        for wire in self.wires(fault):
            self._active.setdefault(wire, []).append(fault)
            self._network.fates[wire] = self._fate(wire)
            self._network.alters[wire] = self._alter(wire)

    def end(self, fault: Fault) -> None:
        """It is over."""
        for wire in self.wires(fault):
            self._active[wire].remove(fault)
            if not self._active[wire]:
                del self._network.fates[wire], self._network.alters[wire]

    def _fate(self, wire: Wire) -> Callable[[Random, bytes], Sequence[int]]:
        active = self._active[wire]

        def fate(random: Random, datagram: bytes) -> Sequence[int]:
            (delay,) = steady(random, datagram)
            copies = 1
            for fault in active:
                match fault.kind:
                    case "cut":
                        copies = 0
                    case "loss":
                        copies *= random.random() >= fault.amount
                    case "delay":
                        delay += int(fault.amount)
                    case "jitter":
                        delay += random.randrange(int(fault.amount))
                    case "twice":
                        copies *= 1 + (random.random() < fault.amount)
            return [delay + index * random.randrange(30 * MS) for index in range(copies)]

        return fate

    def _alter(self, wire: Wire) -> Callable[[Random, bytes], bytes]:
        active = self._active[wire]

        def alter(random: Random, datagram: bytes) -> bytes:
            for fault in active:
                if fault.kind == "alter" and random.random() < fault.amount:
                    place = random.randrange(len(datagram))
                    changed = bytes([datagram[place] ^ 1 << random.randrange(8)])
                    datagram = datagram[:place] + changed + datagram[place + 1 :]
            return datagram

        return alter


def touched(world: World, faults: Sequence[Fault], rekeyed: bool) -> set[Wire]:
    """Return the wires on which more than the payload may differ from a run without these faults.

    They are those of nodes that stop or stand still, and both of a link that may die: of silence, so what is
    cut or spoilt for too short a time does not count, nor do loss and delay. If links take fresh keys during
    the run, one end follows the other, so whatever befalls a wire shows on the other one.
    """
    addresses = {name: node.address for name, node in world.nodes.items()}
    struck = {addresses[fault.node] for fault in faults if fault.kind in OF_NODES}
    wires = {
        wire
        for node in world.nodes.values()
        for peer in node.peers
        if struck & set(wire := (node.address, peer.endpoint.address))
    }
    silence: Counter[tuple[str, str]] = Counter()
    for fault in faults:
        for here, there in fault.wires:
            silence[here, there] += fault.lasts * (fault.kind in ("cut", "alter"))
    for (here, there), lasted in silence.items():
        if rekeyed or lasted >= SILENCE:
            wires |= {(addresses[here], addresses[there]), (addresses[there], addresses[here])}
    return wires
