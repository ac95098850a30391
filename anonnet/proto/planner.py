"""Which way a circuit's next route goes, and how many slots it asks for.

A route begins with a guard, shares no relay with the circuit's other routes and ends at the circuit's exit
(proto.guards); among the paths left the choice is even and random. Paths that have just failed come last.
It asks for no more than the path's relays can promise one route (proto.budget), and for half when a few
paths say that they have no slots, or all do; after an hour for twice as much again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from anonnet.ids import NodeId
from anonnet.proto.budget import TEST_SHARE, parts_of
from anonnet.proto.caller import Caller, OwnRoute
from anonnet.proto.guards import Exits, Guards, guards_wanted
from anonnet.proto.neighbours import Neighbour, Neighbours
from anonnet.proto.path import EXCLUDE_NOTHING, Exclusion, KnownNode, choose, paths, related
from anonnet.wire.control import Reason

LEAST_SCALE: Final = 64  # a circuit asks for no less than this part of what it would have
REFUSALS: Final = 2  # paths without slots, before it asks for half
REGAIN_NS: Final = 3_600_000_000_000  # after asking for half: ask for twice as much again
FULL_SHARE: Final = 256  # a link with less than one in so many of its slots to spare is full
BRIDGE_CELLS: Final = 60  # per second: over a thinner bridge (proto.keeper) cells are late by a set-up

Rate = tuple[int, int]  # forward, backward; millicells per second


@dataclass(frozen=True)
class Terms:
    """What a person wants of every route of a circuit. `exit_id` None: any."""

    exit_id: NodeId | None
    hops: int
    excluded: Exclusion = EXCLUDE_NOTHING


@dataclass(frozen=True)
class Ends:
    """What all circuits of the host share."""

    guards: Guards
    exits: Exits


@dataclass(frozen=True)
class Plan:
    """A route to build."""

    path: list[KnownNode]
    rate: Rate


class Planner:
    """Plans one circuit's routes."""

    def __init__(
        self, own: NodeId, nodes: Mapping[NodeId, KnownNode], neighbours: Neighbours, ends: Ends,
        caller: Caller, random: Callable[[int], bytes], share: float,
    ) -> None:  # fmt: skip
        self.sharers = 1  # circuits that share this node's links evenly
        self.avoid: Collection[NodeId] = ()  # exits that other circuits have ...
        self.strict = False  # ... and whether having none is better than one of these
        self.terms = Terms(None, 0)
        self.trouble = ""  # why there is no path
        self._own = own
        self._nodes = nodes
        self._neighbours = neighbours
        self._ends = ends
        self._caller = caller
        self._random = random
        self._share = share
        self._scale = 1
        self._scaled_at = 0  # ns
        self._regaining = False  # whether the last change was for more
        self._failed: set[tuple[NodeId, ...]] = set()
        self._refusals = 0  # for want of slots

    def begin(self, terms: Terms) -> None:
        """Plan on other terms; what failed is forgotten."""
        self.terms = terms
        self._scale = 1
        self._regaining = False
        self.forgive()

    # -- plans ------------------------------------------------------------------------------------

    def plan(self, routes: Sequence[OwnRoute], wanted: int, exit_id: NodeId | None, now: int) -> Plan | None:
        """Plan one more route beside these, of `wanted` in all, to an exit (None: as wished)."""
        self._regain(now)
        nodes, firsts = self._field(routes, wanted, now)
        exits = self._exits(nodes, exit_id, now)
        offers = [(first, rate) for first in firsts if (rate := self._rate(first))]
        for again in (False, True):
            for end in exits:
                for first, rate in offers:
                    path = choose(self._paths(nodes, first, end, (), again), self._random)
                    if path is not None:
                        return Plan(path, self._fit(rate, path, first))
            if self._failed and not again:
                self._all_failed(now)
        if not routes:
            self.trouble = self._why_no_path(firsts, bool(exits), bool(offers))
        return None

    def untried(self, wanted: int, exit_id: NodeId, now: int) -> bool:
        """Whether there is a path to this exit that has not failed."""
        nodes, firsts = self._field((), wanted, now)
        return any(next(self._paths(nodes, first, exit_id, (), False), None) for first in firsts)

    def successor(self, old: OwnRoute, others: Sequence[OwnRoute], wanted: int, now: int) -> Plan | None:
        """Plan a route that can open while `old` is still there: away from its links if possible."""
        self._regain(now)
        nodes, firsts = self._field(others, wanted, now)
        end = old.path[-1].node_id
        offers = [(first, rate) for first in firsts if (rate := self._rate(first, old))]
        for avoid in ([node.node_id for node in old.path[:-1]], ()):
            for first, rate in offers:
                path = choose(self._paths(nodes, first, end, avoid, False), self._random)
                if path is not None:
                    return Plan(path, self._fit(rate, path, first))
        return None

    def bridge(self, old: OwnRoute, now: int) -> Plan | None:
        """Plan a thin route of what `old`, the only one, has left free of a first link."""
        nodes, firsts = self._field((), 1, now)
        end = old.path[-1].node_id
        for first in firsts:
            rate = first.budget.free_out, first.budget.free_in
            if min(rate) >= BRIDGE_CELLS * 1000 * self._scale:
                path = choose(self._paths(nodes, first, end, (), True), self._random)
                if path is not None and min(fit := self._fit(rate, path, first)) >= BRIDGE_CELLS * 1000:
                    return Plan(path, fit)
        return None

    def opened(self, path: Sequence[KnownNode]) -> None:
        """A route along this path has opened."""
        self.trouble = ""
        self.forgive()

    def lasted(self, path: Sequence[KnownNode]) -> None:
        """A route along this path has lived its life."""
        self._ends.guards.worked(path[0].node_id)
        self._ends.exits.worked(path[-1].node_id)

    def failed(self, path: Sequence[KnownNode], reason: Reason, young: bool, beside: bool, now: int) -> None:
        """A route along this path has died, `young` or in set-up: then each guard gets its turn.

        Wherever it died: a corrupt guard kills what does not end at a corrupt exit, and must not hold up the
        circuit until its exit is given up. `beside`: slots may be those of the route that it was to follow.
        """
        self._failed.add(tuple(node.node_id for node in path))
        self.trouble = reason.text
        if reason is Reason.NO_SLOTS:
            self._refused(beside, now)
        if young and not (beside and reason is Reason.NO_SLOTS):
            self._ends.guards.failed(path[0].node_id, now)

    def forgive(self) -> None:
        """What failed may well work now: slots have come free."""
        self._failed.clear()
        self._refusals = 0

    def guarded(self, wanted: int, now: int) -> bool:
        """Whether any guard is up."""
        return bool(self._field((), wanted, now)[1])

    def give_up(self, exit_id: NodeId, now: int) -> bool:
        """Put an exit that cannot be reached behind others; False if there are none."""
        if self.terms.exit_id is not None:
            return False
        self._ends.exits.failed(exit_id, now)
        return self._exits(self._nodes, None, now)[:1] != [exit_id]

    # -- the field --------------------------------------------------------------------------------

    def _field(
        self, routes: Sequence[OwnRoute], wanted: int, now: int
    ) -> tuple[dict[NodeId, KnownNode], list[Neighbour]]:
        """Return the nodes and guards that a route beside `routes` may use."""
        taken = [node for route in routes for node in route.path[:-1]]
        allowed = {
            node_id: node
            for node_id, node in self._nodes.items()
            if node_id != self._own and not self.terms.excluded.covers(node)
        }
        out = [n.node_id for n in self._neighbours if n.node_id not in allowed]
        firsts = self._ends.guards.choose(self._neighbours, out, guards_wanted(wanted), now)
        nodes = {i: n for i, n in allowed.items() if not any(related(n, other) for other in taken)}
        return nodes, [first for first in firsts if first.node_id in nodes]

    def _exits(self, nodes: Mapping[NodeId, KnownNode], exit_id: NodeId | None, now: int) -> list[NodeId]:
        """Return the exits to try, one after the other while there is no path."""
        if wanted := exit_id or self.terms.exit_id:
            return [wanted] if wanted in nodes and nodes[wanted].exit else []
        listed = [n.node_id for n in self._nodes.values() if n.exit and n.node_id != self._own]
        out = [node_id for node_id in listed if self.terms.excluded.covers(self._nodes[node_id])]
        found = [e for e in self._ends.exits.choose(listed, out, len(self.avoid), now) if e in nodes]
        if self.strict:
            return [node_id for node_id in found if node_id not in self.avoid]
        failing = {one.node_id for one in self._ends.exits if one.retry_at > now}
        return sorted(found, key=lambda node_id: (node_id in failing, node_id in self.avoid))

    def _paths(
        self, nodes: Mapping[NodeId, KnownNode], first: Neighbour, end: NodeId,
        avoid: Collection[NodeId], again: bool,
    ) -> Iterator[list[KnownNode]]:  # fmt: skip
        """Yield paths by this guard to this exit, in random order; those that failed only `again`."""
        place = {node_id: self._random(8) for node_id in nodes}
        for path in paths(nodes, [first.node_id], self.terms.hops, [end], avoid, place.__getitem__):
            if again or tuple(node.node_id for node in path) not in self._failed:
                yield path

    # -- how much ---------------------------------------------------------------------------------

    def _refused(self, beside: bool, now: int) -> None:
        """A path has no slots. `beside` another route, it may be that one which has them."""
        if not beside:
            self._refusals += 1
            if self._refusals >= REFUSALS:
                self._halve(now)
        elif self._regaining:
            self._halve(now)

    def _all_failed(self, now: int) -> None:
        """Every path has failed: begin anew, with less if it was for want of slots."""
        if self._refusals:
            self._halve(now)
        self.forgive()

    def _halve(self, now: int) -> None:
        self._scale = min(2 * self._scale, LEAST_SCALE)
        self._scaled_at = now
        self._regaining = False
        self._refusals = 0

    def _regain(self, now: int) -> None:
        """Ask for more again: those who had the slots may have gone."""
        if self._scale > 1 and now - self._scaled_at >= REGAIN_NS:
            self._scale //= 2
            self._scaled_at = now
            self._regaining = True

    def _why_no_path(self, firsts: Sequence[Neighbour], exits: bool, offers: bool) -> str:
        if not firsts:
            up = any(n.up for n in self._neighbours)
            return "none of the guards is up: `anonnet-tun status` lists them" if up else "no link is up"
        if not exits:
            if self.strict and self.avoid:
                return "no exit is left that no other circuit has"
            if self.terms.exit_id is None:
                return "no peer is an exit" + (" that is not excluded" if self.terms.excluded else "")
            return "the exit asked for is not among the peers" + (
                ", or excluded" if self.terms.excluded else ""
            )
        if not offers:
            return Reason.NO_SLOTS.text
        return f"no path of {self.terms.hops} hops over the links that the peers' invites name"

    def _rate(self, first: Neighbour, old: OwnRoute | None = None) -> Rate | None:
        """Return what the first link has for a route; None if it is full.

        What must be kept free counts from when `old`, if any, has given its slots back. With next to nothing
        to spare a route could be had, but no cell of its set-up would pass in time.
        """
        budget = first.budget
        own = [route.rate for route in self._caller.routes.values() if route.first is first and route.circuit]
        back = old.rate if old is not None and old.first is first else (0, 0)

        def part(free: int, capacity: int, ours: int, back: int) -> int:
            spare = free - max(0, capacity // TEST_SHARE - back)
            if spare * FULL_SHARE <= capacity:
                return 0
            fair = min(spare, (spare + ours) // self.sharers)
            return max(1, int(fair * self._share))

        rate = (
            part(budget.free_out, budget.capacity_out, sum(out for out, _ in own), back[0]),
            part(budget.free_in, budget.capacity_in, sum(in_ for _, in_ in own), back[1]),
        )
        return rate if all(rate) and (old is None or self._follows(rate, old)) else None

    def _follows(self, rate: Rate, old: OwnRoute) -> bool:
        """Whether a successor would have at least half of what is due to the route that it follows."""
        budget = old.first.budget
        due = (
            min(old_rate, int(capacity * self._share) // self.sharers)
            for old_rate, capacity in zip(old.rate, (budget.capacity_out, budget.capacity_in), strict=True)
        )
        return all(2 * new >= least * self._scale for new, least in zip(rate, due, strict=True))

    def _fit(self, rate: Rate, path: Sequence[KnownNode], first: Neighbour) -> Rate:
        """Return what to ask for along a path whose first link has so much: all of it, or one of few sizes.

        A size of its own would tell relays that are not neighbours that they have the same route.
        """
        parts = max((parts_of(len(node.neighbours)) for node in path[:-1]), default=1)
        if parts == self._scale == 1:
            return rate

        def size(capacity: int, most: int) -> int:
            part = int((capacity - capacity // TEST_SHARE) * self._share) // (self.sharers * parts)
            while part > most:
                part //= 2
            return max(1, part // self._scale)

        return size(first.budget.capacity_out, rate[0]), size(first.budget.capacity_in, rate[1])
