"""What relays and callers know of this node's links: who is there, what is free, which ids are taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from anonnet.ids import NodeId, RouteId
from anonnet.proto.budget import LinkBudget
from anonnet.proto.orders import Order
from anonnet.proto.profile import Schedule
from anonnet.spec import ROUTE_FIRST, ROUTE_PARITY_BIT, Format
from anonnet.wire.control import ControlMessage


@dataclass
class Neighbour:
    """One link as routes see it."""

    handle: int
    node_id: NodeId
    format: Format
    schedule: Schedule
    budget: LinkBudget
    up: bool = False
    since: int = 0  # monotonic ns; when it came up, or went down
    routes: dict[RouteId, int] = field(default_factory=dict)  # id on this link -> route handle


class Host(Protocol):
    """The node around relays and callers."""

    node_id: NodeId
    random: Callable[[int], bytes]
    now: int  # monotonic ns, of what is being handled

    def order(self, order: Order) -> None:
        """Tell the data plane."""

    def say(self, link: int, message: ControlMessage) -> None:
        """Send a control message to a neighbour."""

    def new_route(self) -> int:
        """Give out a handle for a route at this node."""


class Neighbours:
    """All links of this node, by handle and by node."""

    def __init__(self, own: NodeId, random: Callable[[int], bytes]) -> None:
        self._own = own
        self._random = random
        self._by_link: dict[int, Neighbour] = {}

    def add(self, neighbour: Neighbour) -> None:
        """Know another link."""
        self._by_link[neighbour.handle] = neighbour

    def __getitem__(self, link: int) -> Neighbour:
        return self._by_link[link]

    def __iter__(self) -> Iterator[Neighbour]:
        return iter(self._by_link.values())

    def __len__(self) -> int:
        return len(self._by_link)

    def find(self, node_id: NodeId) -> Neighbour | None:
        """Return the link with a node that is up."""
        return next((n for n in self if n.node_id == node_id and n.up), None)

    def new_id(self, neighbour: Neighbour) -> RouteId:
        """Pick a random free route id of this node's half of the link's id space."""
        parity = ROUTE_PARITY_BIT if self._own > neighbour.node_id else 0
        while True:
            picked = int.from_bytes(self._random(4), "big") % (ROUTE_PARITY_BIT - ROUTE_FIRST)
            route_id = RouteId((picked + ROUTE_FIRST) | parity)
            if route_id not in neighbour.routes:
                return route_id

    def may_pick(self, neighbour: Neighbour, route_id: RouteId) -> bool:
        """Whether the neighbour may give a route this id: its half, and free."""
        theirs = bool(route_id & ROUTE_PARITY_BIT) == (neighbour.node_id > self._own)
        return theirs and route_id not in neighbour.routes
