"""Networks and traffic that the simulator's tests share.

caller --- r1 --- r2 --- exit      a chain, so that the route is known: three hops, every link on it
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Final

from anonnet.proto.caller import OwnRoute, Watcher, Wish
from anonnet.proto.hops import CallerRoute, HopRoute
from anonnet.proto.keeper import CircuitState
from anonnet.proto.link import LinkState
from anonnet.proto.plane import Plane
from anonnet.sim.clock import MS, SECOND
from anonnet.sim.simnode import SimNode
from anonnet.sim.world import World
from anonnet.spec import INNER4_CALLER
from anonnet.wire.control import Reason

CHAIN: Final = ("caller", "r1", "r2", "exit")
CHAIN_LINKS: Final = (("caller", "r1"), ("r1", "r2"), ("r2", "exit"))
SERVER: Final = "203.0.113.9"
_UDP: Final = 17
_HEADERS: Final = 28


def chain(seed: int = 1, profile: str = "t1", planes: Mapping[str, type[Plane]] | None = None) -> World:
    """Make the chain and wait until its links are up."""
    world = World(seed, profile)
    world.build(CHAIN, CHAIN_LINKS, ["exit"], planes)
    assert world.run(30 * SECOND, lambda: links_up(world)), "links did not come up"
    return world


def links_up(world: World) -> bool:
    return all(
        link.state is LinkState.UP for node in world.nodes.values() for link in node.core.links.values()
    )


def up(world: World, hops: int = 3, wait: int = 60 * SECOND) -> None:
    """Open the caller's circuit."""
    caller = world.nodes["caller"]
    caller.core.keeper.want(None, hops, 1, world.now)
    caller.wake()
    assert world.run(wait, lambda: caller.core.keeper.state is CircuitState.UP), caller.core.keeper.trouble


def down(world: World) -> None:
    """Close it."""
    caller = world.nodes["caller"]
    caller.core.keeper.drop()
    caller.wake()


def own_route(node: SimNode) -> CallerRoute:
    """The data plane's side of the one route that a node calls."""
    (route,) = [route for route in node.plane._routes.values() if isinstance(route, CallerRoute)]
    return route


def hop_route(node: SimNode) -> HopRoute:
    """The same for the one route through a node."""
    (route,) = [route for route in node.plane._routes.values() if isinstance(route, HopRoute)]
    return route


def holdings(node: SimNode) -> dict[str, object]:
    """All that a node holds for routes: it must be the same before a route and after it."""
    plane = node.plane
    return {
        "budgets": [(n.budget.free_out, n.budget.free_in) for n in node.core.neighbours],
        "ids": [dict(n.routes) for n in node.core.neighbours],
        "control": (len(node.core.relay.routes), len(node.core.caller.routes)),
        "plane": (len(plane._routes), len(plane._lanes_of), len(plane._circuits), len(plane._by_pool)),
        "links": [(len(link.lanes), len(link.routes)) for link in plane.links.values()],
        "caller": dict(plane._callers.circuits),
    }


def all_holdings(world: World) -> dict[str, dict[str, object]]:
    return {name: holdings(node) for name, node in world.nodes.items() if node.running}


# -- packets --------------------------------------------------------------------------------------


def packet(source: str, target: str, number: int, size: int) -> bytes:
    """Return a UDP packet over IPv4 whose every byte follows from its number and size."""
    body = struct.pack(">Q", number) + hashlib.shake_128(b"%d %d" % (number, size)).digest(size - 8)
    addresses = IPv4Address(source).packed + IPv4Address(target).packed
    head = struct.pack(">BBHHHBBH", 0x45, 0, _HEADERS + size, 0, 0x4000, 64, _UDP, 0) + addresses
    total = sum(struct.unpack(">10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    udp = struct.pack(">HHHH", 4000, 5000, 8 + size, 0)
    return head[:10] + struct.pack(">H", checksum) + head[12:] + udp + body


def number_of(data: bytes | bytearray) -> int:
    """Check that a packet's payload is as it was sent; return its number."""
    (number,) = struct.unpack_from(">Q", data, _HEADERS)
    size = len(data) - _HEADERS
    expected = hashlib.shake_128(b"%d %d" % (number, size)).digest(size - 8)
    assert bytes(data[_HEADERS + 8 :]) == expected, "a packet was altered on its way"
    return int(number)


class Traffic:
    """Numbered packets both ways through the caller's circuit, one each way every `interval` ns."""

    def __init__(self, world: World, interval: int = 10 * MS, size: int = 900) -> None:
        self.world = world
        self.sent = 0
        self.out: list[int] = []  # numbers that came out at the exit
        self.back: list[int] = []  # and at the caller
        self.on_out: Callable[[int], None] = lambda number: None
        self._interval = interval
        self._size = size
        self._running = True
        self._pool = ""
        world.nodes["exit"].on_packet = self._at_exit
        world.nodes["caller"].on_packet = self._at_caller
        self._send()

    def stop(self) -> None:
        self._running = False

    def _send(self) -> None:
        if not self._running:
            return
        self.world.nodes["caller"].send("caller", packet(INNER4_CALLER, SERVER, self.sent, self._size))
        if self._pool:
            self.world.nodes["exit"].send("exit", packet(SERVER, self._pool, self.sent, self._size))
        self.sent += 1
        self.world.at(self.world.now + self._interval, self._send)

    def _at_exit(self, role: str, data: bytearray) -> None:
        assert role == "exit"
        self._pool = str(IPv4Address(bytes(data[12:16])))
        self.out.append(number_of(data))
        self.on_out(self.out[-1])

    def _at_caller(self, role: str, data: bytearray) -> None:
        assert role == "caller"
        self.back.append(number_of(data))


# -- single routes --------------------------------------------------------------------------------


class Attempt:
    """One route built by hand along named nodes, and what became of it."""

    def __init__(self, world: World, path: tuple[str, ...], rate: int = 10_000, circuit: bool = False,
                 onion_of: Mapping[str, str] | None = None) -> None:  # fmt: skip
        """Ask for it; `onion_of` puts another node's onion key under a name, as an outdated invite would."""
        self.reason: Reason | None = None
        self.ready = False
        self.echoes: list[int] = []
        self.steps: list[str] = []
        caller = world.nodes["caller"]
        known = [caller.known(world.nodes[name]) for name in path]
        for index, name in enumerate(path):
            if other := (onion_of or {}).get(name):
                known[index] = replace(known[index], onion_public=world.nodes[other].keys.onion_public)
        watcher = Watcher(
            self.steps.append, self._on_ready, self._on_dead, lambda *seen: self.echoes.append(seen[2])
        )
        wish = Wish(1, bytes(32)) if circuit else None
        built = caller.core.caller.build(known, (rate, rate), wish, watcher, world.now)
        assert isinstance(built, OwnRoute)
        self.route = built
        caller.wake()

    def _on_ready(self, _handle: int) -> None:
        self.ready = True

    def _on_dead(self, _handle: int, reason: Reason) -> None:
        self.reason = reason
