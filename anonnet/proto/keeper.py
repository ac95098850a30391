"""Keeping one circuit open for as long as the host wants it. proto.keepers has one of these for each.

Builds routes along random paths that share no relay, tries another when one fails, builds anew when one dies;
the circuit, and the connections in it, go on as long as one is left or comes back in time. Each route lives
about ten minutes, drawn by chance, and is then replaced: by one that opens before it ends where the first
link has the slots for both, else right after it, while the circuit's other routes carry on. A route that
dies young counts as a failure, and failures back off, so that nobody can make us rebuild without end (each
rebuild is a chance for the predecessor attack). When every path says that it has no slots, the next round
asks for half.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Final

from anonnet.ids import NodeId
from anonnet.proto.budget import TEST_SHARE
from anonnet.proto.caller import SECRET_LEN, Caller, OwnRoute, RouteState, Watcher, Wish
from anonnet.proto.neighbours import Neighbour, Neighbours
from anonnet.proto.orders import CloseCircuit, Order
from anonnet.proto.path import KnownNode, choose, paths, related
from anonnet.proto.redundancy import STRIPE, Redundancy
from anonnet.wire.control import Reason

SECOND: Final = 1_000_000_000
FIRST_RETRY_NS: Final = SECOND // 4
LAST_RETRY_NS: Final = 30 * SECOND
YOUNG_NS: Final = 60 * SECOND
LEAST_SCALE: Final = 64  # a circuit asks for no less than this part of what its first link has free
FULL_SHARE: Final = 256  # a link with less than one in so many of its slots to spare is full
LIFE_NS: Final = (480 * SECOND, 720 * SECOND)  # a route's, from the least to the most
ABANDON_NS: Final = 10 * SECOND  # without an open route, a circuit is given up and another exit may do
AT_ONCE: Final = 0


class CircuitState(Enum):
    """What the host's traffic meets; the value is what people read."""

    DOWN = "down"
    CONNECTING = "connecting"
    UP = "up"


class CircuitKeeper:
    """The caller's circuit and its routes, at most `wanted` of them, through different relays to one exit."""

    def __init__(
        self, own: NodeId, nodes: Mapping[NodeId, KnownNode], neighbours: Neighbours, caller: Caller,
        random: Callable[[int], bytes], order: Callable[[Order], None], share: float,
        number: int, new_handle: Callable[[], int],
    ) -> None:  # fmt: skip
        self.number = number  # among the host's circuits, from 1 on
        self.sharers = 1  # circuits that share this node's links evenly
        self.avoid: Collection[NodeId] = ()  # exits that other circuits have ...
        self.strict = False  # ... and whether having none is better than one of these
        self.routes: list[OwnRoute] = []
        self.nodes = nodes
        self.trouble = ""
        self.on_step: Callable[[str], None] = lambda text: None
        self._own = own
        self._neighbours = neighbours
        self._caller = caller
        self._random = random
        self._order = order
        self._share = share
        self._new_handle = new_handle
        self._wanted = 0
        self._hops = 0
        self._exit: NodeId | None = None  # as wished; None: any
        self._bound: NodeId | None = None  # the exit that the circuit has: all its routes must end there
        self._circuit = Wish(0, b"", number=number)
        self._scale = 1
        self._failed: set[tuple[NodeId, ...]] = set()
        self._retry_ns = FIRST_RETRY_NS
        self._next_try: int | None = None
        self._short_of_slots = False
        self._died = False  # a route, since the last was begun
        self._leaving: OwnRoute | None = None  # to be ended as soon as its successor is open
        self._built_at = 0
        self._open_at = 0  # when a route was last seen open

    @property
    def state(self) -> CircuitState:
        """Down, connecting or up."""
        if not self._wanted:
            return CircuitState.DOWN
        opened = any(route.state is RouteState.OPEN for route in self.routes)
        return CircuitState.UP if opened else CircuitState.CONNECTING

    @property
    def exits(self) -> set[NodeId]:
        """The exit that the circuit has, and those that it is trying."""
        found = {route.path[-1].node_id for route in self.routes}
        return found if self._bound is None else found | {self._bound}

    def want(
        self, exit_id: NodeId | None, hops: int, routes: int, now: int, redundancy: Redundancy = STRIPE
    ) -> None:
        """Open a circuit of `routes` routes of `hops` hops to an exit (None: any) and keep it open."""
        if self._wanted and (exit_id, hops) == (self._exit, self._hops):
            if redundancy != self._circuit.redundancy:
                self._circuit = replace(self._circuit, redundancy=redundancy)
                self._caller.rearrange(self._circuit, now)
            self._resize(routes, now)
            return
        if self._wanted:
            self.drop()
        self._circuit = replace(self._circuit, redundancy=redundancy)
        self._exit, self._hops, self._wanted = exit_id, hops, routes
        self._scale = 1
        self._failed.clear()
        self._retry_ns = FIRST_RETRY_NS
        self._renew()
        self._next_try = now

    def _resize(self, routes: int, now: int) -> None:
        """More or fewer routes for the circuit that there is."""
        self._wanted = routes
        while len(self.routes) > routes:
            self._caller.end(self.routes.pop().handle, Reason.FINISHED)
        if len(self.routes) < routes and self._next_try is None:
            self._next_try = now

    def renew_routes(self, now: int) -> None:
        """Replace all routes soon, one after the other: what each may take has changed."""
        for route in self.routes:
            route.expires = min(route.expires, now)

    def drop(self) -> None:
        """Close the circuit and want none."""
        self._wanted = 0
        self._next_try = None
        self._abandon()

    def _abandon(self) -> None:
        routes, self.routes = self.routes, []
        self._leaving = None
        for route in routes:
            self._caller.end(route.handle, Reason.FINISHED)
        if self._circuit.handle:
            self._order(CloseCircuit(self._circuit.handle))
        self._bound = None

    def _renew(self) -> None:
        """Begin another circuit: the exit of the old one cannot be reached any more, or there was none."""
        self._abandon()
        handle, secret = self._new_handle(), self._random(SECRET_LEN)
        self._circuit = replace(self._circuit, handle=handle, secret=secret)

    # -- time -------------------------------------------------------------------------------------

    def next_deadline(self) -> int | None:
        """When to try again, or to replace a route."""
        due = [route.expires for route in self.routes if route.state is RouteState.OPEN]
        if self._next_try is not None:
            due.append(self._next_try)
        return min(due, default=None)

    def on_deadline(self, now: int) -> None:
        """Begin a route if one is wanted and the time has come."""
        if self.state is CircuitState.UP:
            self._open_at = now
        self._rotate(now)
        if self._next_try is None or now < self._next_try:
            return
        if len(self.routes) >= self._wanted + bool(self._leaving):
            self._next_try = None
            return
        died, self._died = self._died, False
        if now - self._built_at >= YOUNG_NS:
            self._retry_ns = FIRST_RETRY_NS
        elif died:
            self._back_off(now)
            return
        self._back_off(now)
        if self._bound is not None and not self.routes and now - self._open_at >= ABANDON_NS:
            self._renew()
        path = self._pick()
        if path is not None:
            self._begin(path, now)

    def _rotate(self, now: int) -> None:
        """Let one route whose time has come give way: to a new one beside it, or to one after it."""
        if self._leaving or len(self.routes) < self._wanted:
            return  # one at a time, and never when the circuit is short of routes already
        old = next((r for r in self.routes if r.state is RouteState.OPEN and now >= r.expires), None)
        if old is None:
            return
        free = old.first.budget.free_out, old.first.budget.free_in
        if all(have >= need for have, need in zip(free, old.rate, strict=True)):
            self._leaving = old
        else:
            self._let_go(old)
        self._next_try = now

    def _let_go(self, route: OwnRoute) -> None:
        self.routes.remove(route)
        self._caller.end(route.handle, Reason.FINISHED)

    def _begin(self, path: list[KnownNode], now: int) -> None:
        first = self._neighbours.find(path[0].node_id)
        assert first is not None
        watcher = Watcher(self._step, self._ready, self._dead, lambda *_: None)
        rate = self._rate(first)
        built = self._caller.build(path, rate, self._circuit, watcher, now) if rate else Reason.NO_SLOTS
        if isinstance(built, Reason):
            self._failed_on(path, built)
            return
        least, most = LIFE_NS
        built.expires = now + least + int.from_bytes(self._random(8), "big") % (most - least)
        self.routes.append(built)
        self._built_at = now
        self._next_try = None  # until it is open, or dead

    def _back_off(self, now: int) -> None:
        self._next_try = now + self._retry_ns
        self._retry_ns = min(self._retry_ns * 2, LAST_RETRY_NS)

    # -- paths ------------------------------------------------------------------------------------

    def _pick(self) -> list[KnownNode] | None:
        taken = [node for route in self.routes for node in route.path[:-1]]
        nodes = {
            node_id: node
            for node_id, node in self.nodes.items()
            if node_id != self._own and not any(related(node, other) for other in taken)
        }
        first = [n.node_id for n in self._neighbours if n.up]
        wanted = self._bound or self._exit
        exits = [n.node_id for n in nodes.values() if n.exit and wanted in (None, n.node_id)]
        found = list(paths(nodes, first, self._hops, exits))
        apart = [path for path in found if self._bound or path[-1].node_id not in self.avoid]
        if self.strict:
            found = apart
        if not found:
            if not self.routes:
                self.trouble = self._why_no_path(first, exits)
            return None
        fresh = self._fresh(apart) or self._fresh(found)
        if not fresh:
            self._failed.clear()
            if self._short_of_slots and self._scale < LEAST_SCALE:
                self._scale *= 2
            self._short_of_slots = False
        return choose(iter(fresh or apart or found), self._random)

    def _fresh(self, found: Sequence[list[KnownNode]]) -> list[list[KnownNode]]:
        return [path for path in found if tuple(node.node_id for node in path) not in self._failed]

    def _why_no_path(self, first: list[NodeId], exits: list[NodeId]) -> str:
        if not first:
            return "no link is up"
        if not exits:
            return "no peer is an exit" if self._exit is None else "the exit asked for is not among the peers"
        if self.strict and set(exits) <= set(self.avoid):
            return "no exit is left that no other circuit has"
        return f"no path of {self._hops} hops over the links that the peers' invites name"

    def _rate(self, first: Neighbour) -> tuple[int, int] | None:
        """Return what to ask of the first link, forward and backward; None if it is full.

        With next to nothing to spare a route could be had, but no cell of its set-up would pass in time.
        """
        budget = first.budget
        own = [route.rate for route in self._caller.routes.values() if route.first is first and route.circuit]

        def part(free: int, capacity: int, ours: int) -> int:
            spare = free - capacity // TEST_SHARE
            if spare * FULL_SHARE <= capacity:
                return 0
            fair = min(spare, (spare + ours) // self.sharers)
            return max(1, int(fair * self._share) // self._scale)

        rate = (
            part(budget.free_out, budget.capacity_out, sum(out for out, _ in own)),
            part(budget.free_in, budget.capacity_in, sum(in_ for _, in_ in own)),
        )
        return rate if all(rate) else None

    def _step(self, text: str) -> None:
        self.on_step(text)

    def _ready(self, handle: int) -> None:
        self.trouble = ""
        self._failed.clear()
        route = next(route for route in self.routes if route.handle == handle)
        self._bound = route.path[-1].node_id
        if self._leaving is not None:
            leaving, self._leaving = self._leaving, None
            if leaving in self.routes:
                self._let_go(leaving)
        opened = sum(route.state is RouteState.OPEN for route in self.routes)
        self.on_step(
            f"circuit open, {opened} of {self._wanted} routes" if self._wanted > 1 else "circuit open"
        )
        if opened < self._wanted:
            self._next_try = AT_ONCE

    def _dead(self, handle: int, reason: Reason) -> None:
        route = next((route for route in self.routes if route.handle == handle), None)
        if route is None:
            return  # let go of on purpose
        self.routes.remove(route)
        if route is self._leaving:
            self._leaving = None
        self._died = True
        self._failed_on(route.path, reason)
        self._next_try = AT_ONCE

    def _failed_on(self, path: Sequence[KnownNode], reason: Reason) -> None:
        self._failed.add(tuple(node.node_id for node in path))
        self._short_of_slots |= reason is Reason.NO_SLOTS
        self.trouble = reason.text
        self.on_step(f"failed: {reason.text}; trying again")
