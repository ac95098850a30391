"""Choosing a path: which nodes a route goes through.

Routes run only over links that exist, so a path is a walk in the graph that descriptors draw. No two
relays of a route share a /16 (IPv4), a /32 (IPv6) or a declared family. Among all that is left the
choice is even and random.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Final

from anonnet.ids import NodeId

MAX_PATHS: Final = 20_000  # looked at before choosing; larger networks are sampled


@dataclass(frozen=True)
class KnownNode:
    """What a caller must know of a node to put it on a path."""

    node_id: NodeId
    name: str
    onion_public: bytes
    exit: bool
    neighbours: frozenset[NodeId]
    addresses: tuple[IPv4Address | IPv6Address, ...] = ()
    family: frozenset[NodeId] = field(default_factory=frozenset)

    @property
    def networks(self) -> frozenset[bytes]:
        """Prefixes that no other relay of the route may share."""
        return frozenset(b"%d" % a.version + a.packed[: 2 if a.version == 4 else 4] for a in self.addresses)


@dataclass(frozen=True)
class Exclusion:
    """Nodes that must be no part of any route: by id, or by an address in a network."""

    nodes: frozenset[NodeId] = frozenset()
    networks: frozenset[IPv4Network | IPv6Network] = frozenset()

    def covers(self, node: KnownNode) -> bool:
        """Whether a node is excluded."""
        return node.node_id in self.nodes or any(a in net for a in node.addresses for net in self.networks)

    def __bool__(self) -> bool:
        return bool(self.nodes or self.networks)


EXCLUDE_NOTHING: Final = Exclusion()


def related(one: KnownNode, other: KnownNode) -> bool:
    """Whether one adversary, or one failure, may well have both."""
    return (
        one.node_id == other.node_id
        or not one.networks.isdisjoint(other.networks)
        or other.node_id in one.family
        or one.node_id in other.family
    )


def paths(
    nodes: Mapping[NodeId, KnownNode], first: Collection[NodeId], hops: int, last: Collection[NodeId],
    avoid: Collection[NodeId] = (), order: Callable[[NodeId], Any] = bytes,
) -> Iterator[list[KnownNode]]:  # fmt: skip
    """Yield every path of `hops` nodes that starts at one of `first` and ends at one of `last`.

    At each step nodes come in the order of the key `order`: whoever looks at some paths only wants it random.
    """

    def grow(path: list[KnownNode]) -> Iterator[list[KnownNode]]:
        if len(path) == hops:
            if path[-1].node_id in last:
                yield path
            return
        candidates = path[-1].neighbours if path else first
        for node_id in sorted(nodes.keys() & candidates, key=order):
            node = nodes[node_id]
            if node_id in avoid or any(related(node, other) for other in path):
                continue
            if path and path[-1].node_id not in node.neighbours:
                continue  # a link that only one end speaks of is not there
            yield from grow([*path, node])

    return grow([])


def choose(candidates: Iterator[list[KnownNode]], random: Callable[[int], bytes]) -> list[KnownNode] | None:
    """Pick one path evenly (reservoir of one); None when there is none."""
    picked: list[KnownNode] | None = None
    for count, path in enumerate(candidates, start=1):
        if below(count, random) == 0:
            picked = path
        if count >= MAX_PATHS:
            break
    return picked


def below(limit: int, random: Callable[[int], bytes]) -> int:
    """Draw a number from 0 to `limit` - 1, evenly but for one part in 2^64 / limit."""
    return int.from_bytes(random(8), "big") % limit
