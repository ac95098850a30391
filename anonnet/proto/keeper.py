"""Keeping one circuit open for as long as the host wants one.

Builds a route along a random path, tries another when it fails, builds anew when it dies. A route that
dies young counts as a failure, and failures back off, so that nobody can make us rebuild without end (each
rebuild is a chance for the predecessor attack). When every path says that it has no slots, the next round
asks for half.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Final

from anonnet.ids import NodeId
from anonnet.proto.budget import TEST_SHARE
from anonnet.proto.caller import Caller, OwnRoute, Watcher
from anonnet.proto.neighbours import Neighbour, Neighbours
from anonnet.proto.path import KnownNode, choose, paths
from anonnet.wire.control import Reason

SECOND: Final = 1_000_000_000
FIRST_RETRY_NS: Final = SECOND // 4
LAST_RETRY_NS: Final = 30 * SECOND
YOUNG_NS: Final = 60 * SECOND
LEAST_SCALE: Final = 64  # a circuit asks for no less than this part of what its first link has free
_AS_SOON_AS_ALLOWED: Final = 0


class CircuitState(Enum):
    """What the host's traffic meets; the value is what people read."""

    DOWN = "down"
    CONNECTING = "connecting"
    UP = "up"


class CircuitKeeper:
    """The caller's circuit: one route for now."""

    def __init__(self, own: NodeId, nodes: Mapping[NodeId, KnownNode], neighbours: Neighbours, caller: Caller,
                 random: Callable[[int], bytes], share: float) -> None:  # fmt: skip
        self.state = CircuitState.DOWN
        self.route: OwnRoute | None = None
        self.trouble = ""
        self.on_step: Callable[[str], None] = lambda text: None
        self._own = own
        self.nodes = nodes
        self._neighbours = neighbours
        self._caller = caller
        self._random = random
        self._share = share
        self._exit: NodeId | None = None
        self._hops = 0
        self._circuit = 0
        self._scale = 1
        self._failed: set[tuple[NodeId, ...]] = set()
        self._retry_ns = FIRST_RETRY_NS
        self._next_try: int | None = None
        self._short_of_slots = False
        self._built_at = 0

    def want(self, exit_id: NodeId | None, hops: int, now: int) -> None:
        """Open a circuit of `hops` hops to an exit (None: any) and keep it open."""
        if self.state is not CircuitState.DOWN:
            if (exit_id, hops) == (self._exit, self._hops):
                return
            self.drop()
        self._exit, self._hops = exit_id, hops
        self._scale = 1
        self._failed.clear()
        self._retry_ns = FIRST_RETRY_NS
        self.state = CircuitState.CONNECTING
        self._next_try = now

    def drop(self) -> None:
        """Close the circuit and want none."""
        self.state = CircuitState.DOWN
        self._next_try = None
        route, self.route = self.route, None
        if route is not None:
            self._caller.end(route.handle, Reason.FINISHED)

    def next_deadline(self) -> int | None:
        """When to try again."""
        return self._next_try

    def on_deadline(self, now: int) -> None:
        """Start a route if one is wanted and the time has come."""
        if self._next_try is None or now < self._next_try:
            return
        if now - self._built_at >= YOUNG_NS:
            self._retry_ns = FIRST_RETRY_NS
        elif self._next_try == _AS_SOON_AS_ALLOWED:
            self._back_off(now)
            return
        self._back_off(now)
        path = self._pick()
        if path is None:
            return
        first = self._neighbours.find(path[0].node_id)
        assert first is not None
        self._circuit += 1
        watcher = Watcher(self._step, self._ready, lambda handle, reason: self._dead(reason), lambda *_: None)
        built = self._caller.build(path, self._rate(first), self._circuit, watcher, now)
        if isinstance(built, Reason):
            self._failed_on(path, built)
            return
        self.route = built
        self._built_at = now
        self._next_try = None

    def _back_off(self, now: int) -> None:
        self._next_try = now + self._retry_ns
        self._retry_ns = min(self._retry_ns * 2, LAST_RETRY_NS)

    def _pick(self) -> list[KnownNode] | None:
        others = {node_id: node for node_id, node in self.nodes.items() if node_id != self._own}
        first = [n.node_id for n in self._neighbours if n.up]
        exits = [n.node_id for n in others.values() if n.exit and self._exit in (None, n.node_id)]
        found = list(paths(others, first, self._hops, exits))
        if not found:
            self.trouble = self._why_no_path(first, exits)
            return None
        fresh = [path for path in found if tuple(n.node_id for n in path) not in self._failed]
        if not fresh:
            self._failed.clear()
            if self._short_of_slots and self._scale < LEAST_SCALE:
                self._scale *= 2
            self._short_of_slots = False
        return choose(iter(fresh or found), self._random)

    def _why_no_path(self, first: list[NodeId], exits: list[NodeId]) -> str:
        if not first:
            return "no link is up"
        if not exits:
            return "no peer is an exit" if self._exit is None else "the exit asked for is not among the peers"
        return f"no path of {self._hops} hops over the links that the peers' invites name"

    def _rate(self, first: Neighbour) -> tuple[int, int]:
        budget = first.budget

        def part(free: int, capacity: int) -> int:
            spare = max(0, free - capacity // TEST_SHARE)
            return max(1, int(spare * self._share) // self._scale)

        return part(budget.free_out, budget.capacity_out), part(budget.free_in, budget.capacity_in)

    def _step(self, text: str) -> None:
        self.on_step(text)

    def _ready(self, _handle: int) -> None:
        self.state = CircuitState.UP
        self.trouble = ""
        self._failed.clear()
        self.on_step("circuit open")

    def _dead(self, reason: Reason) -> None:
        route, self.route = self.route, None
        if self.state is CircuitState.DOWN or route is None:
            return
        self.state = CircuitState.CONNECTING
        self._failed_on(route.path, reason)
        self._next_try = _AS_SOON_AS_ALLOWED

    def _failed_on(self, path: Sequence[KnownNode], reason: Reason) -> None:
        self._failed.add(tuple(node.node_id for node in path))
        self._short_of_slots |= reason is Reason.NO_SLOTS
        self.trouble = reason.text
        self.on_step(f"failed: {reason.text}; trying again")
