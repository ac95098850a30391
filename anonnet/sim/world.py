"""A network of real cores on a virtual clock.

Each `SimNode` is a control core and a data plane core, joined as the daemon joins them; datagrams travel
through `Network`, which may delay, drop, repeat or alter them, or show them to an observer. One seed decides
everything but the ephemeral keys inside the cryptographic library, and nothing ever sleeps.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address
from random import Random
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from anonnet.crypto.keys import NodeKeys
from anonnet.crypto.suite import ANONNET_2026, Suite
from anonnet.ids import NodeId
from anonnet.proto.path import KnownNode
from anonnet.proto.plane import Plane
from anonnet.sim.clock import START, Clock
from anonnet.sim.network import Network
from anonnet.sim.simnode import SimNode


class World:
    """The clock, the network and the nodes, named."""

    def __init__(self, seed: int = 1, profile: str = "10m") -> None:
        self.now = START
        self.seed = seed
        self.network = Network(self.stream("network"))
        self.nodes: dict[str, SimNode] = {}
        self.profile = profile
        self._at_address: dict[str, SimNode] = {}
        self._events: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def stream(self, purpose: str) -> Random:
        """Return a source of randomness of its own: what one part draws, no other part can tell."""
        return Random(f"{self.seed} {purpose}")

    def at(self, when: int, act: Callable[..., None], *given: Any) -> None:
        """Do something at a time of the virtual clock."""
        self._count += 1
        heapq.heappush(self._events, (max(when, self.now), self._count, act, given))

    def run(self, duration: int, until: Callable[[], bool] | None = None) -> bool:
        """Let time pass; stop early, and return True, when `until` holds."""
        end = self.now + duration
        events = self._events
        while events and events[0][0] <= end:
            self.now, _, act, given = heapq.heappop(events)
            act(*given)
            if until is not None and until():
                return True
        self.now = end
        return until is not None and until()

    def build(self, names: Sequence[str], links: Sequence[tuple[str, str]], exits: Sequence[str],
              planes: Mapping[str, type[Plane]] | None = None,
              profiles: Mapping[tuple[str, str], str] | None = None,
              ppm: Mapping[str, int] | None = None,
              suites: Mapping[str, Suite] | None = None) -> None:  # fmt: skip
        """Make nodes, and the links between them.

        `planes` replaces the data plane of some nodes (cheaters), `profiles` what (here, there) is set to,
        `ppm` is what nodes' clocks gain, in parts of a million; `suites` names who differs.
        """
        keys = {name: self._keys(name) for name in names}
        address = {name: f"10.{index + 1}.0.1" for index, name in enumerate(names)}
        known: dict[NodeId, KnownNode] = {}
        for name in names:
            near = [b if a == name else a for a, b in links if name in (a, b)]
            known[keys[name].node_id] = KnownNode(
                keys[name].node_id, name, keys[name].onion_public, name in exits,
                frozenset(keys[other].node_id for other in near), (IPv4Address(address[name]),),
            )  # fmt: skip
        for name in names:
            plane = (planes or {}).get(name, Plane)
            clock = Clock((ppm or {}).get(name, 0))
            suite = (suites or {}).get(name, ANONNET_2026)
            own = keys[name]
            self.add(SimNode(self, name, address[name], own, known, name in exits, plane, clock, suite))
        for one, other in links:
            for here, there in ((one, other), (other, one)):
                profile = (profiles or {}).get((here, there), self.profile)
                self.nodes[here].link_to(keys[there], address[there], profile)

    def add(self, node: SimNode) -> None:
        """Let a node be reached."""
        self.nodes[node.name] = self._at_address[node.address] = node

    def _keys(self, name: str) -> NodeKeys:
        """Keys from the seed: which of two nodes has the greater id decides who wins and who picks ids."""
        draw = self.stream(f"{name} keys").randbytes
        link, onion = (X25519PrivateKey.from_private_bytes(draw(32)) for _ in range(2))
        return NodeKeys(Ed25519PrivateKey.from_private_bytes(draw(32)), link, onion)

    def move(self, name: str, address: str) -> None:
        """Give a node another address."""
        node = self.nodes[name]
        del self._at_address[node.address]
        node.address = address
        self._at_address[address] = node

    def deliver(self, source: str, target: str, datagram: bytes) -> None:
        """Send a datagram from one address to another, as the network will have it."""
        for when, copy in self.network.arrivals((source, target), datagram, self.now):
            self.at(when, self._arrive, source, target, copy)

    def _arrive(self, source: str, target: str, datagram: bytes) -> None:
        node = self._at_address.get(target)
        if node is not None:
            node.receive(datagram, source)
