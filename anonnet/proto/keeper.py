"""Keeping one circuit open for as long as the host wants it. proto.keepers has one of these for each.

Builds routes as proto.planner says, tries another way when one fails, builds anew when one dies; the circuit,
and the connections in it, go on as long as one is left or comes back in time. What is built is paid for
(proto.rebuild). Each route lives about ten minutes, drawn by chance, and is then followed by another:

    beside   its successor opens, then it is drained and ends: where another guard has the slots, or its own
    after    it is drained and ends, then its successor is built, while the circuit's other routes carry on
    bridge   there is no other: a thin route opens in what it left free of the link, and carries what it can
             from when the old one is drained until the bridge itself has been followed by a full one; on a
             slow link, whose bridge would be too thin, packets wait for the successor's set-up instead

so that nothing is lost in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum
from typing import Final

from anonnet.ids import NodeId
from anonnet.proto.caller import SECRET_LEN, Caller, OwnRoute, RouteState, Watcher, Wish
from anonnet.proto.orders import CloseCircuit, Order
from anonnet.proto.path import EXCLUDE_NOTHING, Exclusion, KnownNode, below
from anonnet.proto.planner import Plan, Planner, Terms
from anonnet.proto.rebuild import RebuildBudget
from anonnet.proto.redundancy import STRIPE, Redundancy
from anonnet.wire.control import Reason

SECOND: Final = 1_000_000_000
LIFE_NS: Final = (480 * SECOND, 720 * SECOND)  # a route's, from the least to the most
YOUNG_NS: Final = 60 * SECOND  # a route that dies before this age says something of its guard
ABANDON_NS: Final = 10 * SECOND  # without an open route, a circuit is given up and another exit may do
LOOK_NS: Final = SECOND // 4  # when there was no path: look again after so long ...
IDLE_LOOK_NS: Final = 10 * SECOND  # ... or so long, when it would be one more beside others
TRIES: Final = 2  # for a successor beside the old route, then for a bridge
AT_ONCE: Final = 0


class CircuitState(Enum):
    """What the host's traffic meets; the value is what people read."""

    DOWN = "down"
    CONNECTING = "connecting"
    UP = "up"


class CircuitKeeper:
    """The caller's circuit and its routes, at most `wanted` of them, through different relays to one exit."""

    def __init__(
        self, number: int, planner: Planner, caller: Caller, new_handle: Callable[[], int],
        random: Callable[[int], bytes], order: Callable[[Order], None],
    ) -> None:  # fmt: skip
        self.number = number  # among the host's circuits, from 1 on
        self.planner = planner
        self.routes: list[OwnRoute] = []  # being built, and open
        self.draining: list[OwnRoute] = []
        self.budget = RebuildBudget()
        self.on_step: Callable[[str], None] = lambda text: None
        self._caller = caller
        self._new_handle = new_handle
        self._random = random
        self._order = order
        self._wanted = 0
        self._bound: NodeId | None = None  # the exit that was drawn: all routes must end there
        self._circuit = Wish(0, b"", number=number)
        self._opened = False  # has the circuit been, ever ...
        self._incarnation = 0  # ... and which one, of those that the exit may have made
        self._open_at = 0  # when a route was last seen open, or the exit drawn
        self._dark_since: int | None = None  # when the last route that was open was lost
        self._building: OwnRoute | None = None
        self._next_try: int | None = None
        self._planned = 0  # builds that need not wait for the budget
        self._leaving: OwnRoute | None = None  # to be drained as soon as its successor is open
        self._tries = 0  # at a successor for the route whose turn it is
        self._rotate_at = 0
        self._after: set[int] = set()  # routes whose successor comes after them

    @property
    def state(self) -> CircuitState:
        """Down, connecting or up."""
        if not self._wanted:
            return CircuitState.DOWN
        opened = any(route.state is RouteState.OPEN for route in self.routes)
        return CircuitState.UP if opened else CircuitState.CONNECTING

    @property
    def exits(self) -> set[NodeId]:
        """The exit that the circuit has, or is trying."""
        return set() if self._bound is None else {self._bound}

    @property
    def trouble(self) -> str:
        """Why the circuit is not up, for people."""
        return self.planner.trouble

    def waits(self, now: int) -> int:
        """Return for how many ns a route that is missing must wait for the budget."""
        if len(self.routes) >= self._wanted or self._planned:
            return 0
        return self.budget.ready_at(now, self._dark_since) - now

    def want(
        self, exit_id: NodeId | None, hops: int, routes: int, now: int, redundancy: Redundancy = STRIPE,
        excluded: Exclusion = EXCLUDE_NOTHING,
    ) -> None:  # fmt: skip
        """Open a circuit of `routes` routes of `hops` hops to an exit (None: any) and keep it open."""
        terms = Terms(exit_id, hops, excluded)
        if self._wanted and terms == self.planner.terms:
            if redundancy != self._circuit.redundancy:
                self._circuit = replace(self._circuit, redundancy=redundancy)
                self._caller.rearrange(self._circuit, now)
            self._resize(routes, now)
            return
        self._circuit = replace(self._circuit, redundancy=redundancy)
        self._wanted = self._planned = routes
        self.planner.begin(terms)
        self.budget.renew(routes, now)
        self._renew(None)
        self._next_try = now

    def _resize(self, routes: int, now: int) -> None:
        """More or fewer routes for the circuit that there is."""
        self._planned += max(0, routes - self._wanted)
        self._wanted = routes
        self.budget.resize(routes, now)
        while len(self.routes) - bool(self._leaving) > routes:
            self._let_go(self.routes[-1], now)
        self._next_try = now

    def renew_routes(self, now: int, more: bool) -> None:
        """Replace all routes soon, one at a time: what each may take has changed.

        If it is `more`, the old one ends first: beside it a successor would get what it has left, no more.
        """
        for route in self.routes:
            route.expires = min(route.expires, now)
        self._after = {route.handle for route in self.routes} if more else set()

    def drop(self) -> None:
        """Close the circuit and want none."""
        self._wanted = 0
        self._next_try = self._bound = None
        self._abandon()

    def _abandon(self) -> None:
        routes = self.routes + self.draining
        self.routes, self.draining = [], []
        self._leaving = self._building = None
        for route in routes:
            self._caller.end(route.handle, Reason.FINISHED)
        if self._circuit.handle:
            self._order(CloseCircuit(self._circuit.handle))
        self._opened = False
        self._dark_since = None

    def _renew(self, exit_id: NodeId | None) -> None:
        """Begin another circuit: the old one's exit is lost, or has forgotten it, or there was none."""
        self._abandon()
        handle, secret = self._new_handle(), self._random(SECRET_LEN)
        self._circuit = replace(self._circuit, handle=handle, secret=secret)
        self._bound = exit_id

    # -- time -------------------------------------------------------------------------------------

    def next_deadline(self) -> int | None:
        """When to try again, or to replace a route."""
        if self._building or not self._wanted:
            return None
        due = [] if self.draining else [max(r.expires, self._rotate_at) for r in self._open()]
        if self._next_try is not None and not self.draining:
            due.append(self._next_try)
        return min(due, default=None)

    def on_deadline(self, now: int) -> None:
        """Begin a route if one is wanted and the time has come."""
        if self.state is CircuitState.UP:
            self._open_at = now
        if not self._wanted or self._building or self.draining:
            return  # one at a time
        if self._next_try is not None and now >= self._next_try:
            self._next_try = None
            if len(self.routes) < self._wanted:
                self._grow(now)
        if not self._building:
            self._rotate(now)

    def _open(self) -> list[OwnRoute]:
        return [route for route in self.routes if route.state is RouteState.OPEN]

    def _grow(self, now: int) -> None:
        """Begin a route that is missing."""
        if not self._planned and (ready := self.budget.ready_at(now, self._dark_since)) > now:
            self._next_try = ready
            return
        self._see_to_exit(now)
        plan = self.planner.plan(self.routes, self._wanted, self._bound, now)
        if plan is None:
            self._next_try = now + (IDLE_LOOK_NS if self.routes else LOOK_NS)
            return
        if self._bound is None:
            self._bound = plan.path[-1].node_id
            self._open_at = now
        self._planned = max(0, self._planned - 1)
        self._begin(plan, now, self._life(now))

    def _see_to_exit(self, now: int) -> None:
        """Give up an exit that cannot be reached, if there is another.

        As long as no guard is up, this host may well be alone: the exit is not to blame then.
        """
        if self._bound is None or self.routes:
            return
        if not self.planner.guarded(self._wanted, now):
            self._open_at = now
        untried = self._opened or self.planner.untried(self._wanted, self._bound, now)
        if untried and now - self._open_at < ABANDON_NS:
            return
        self._open_at = now
        if self.planner.give_up(self._bound, now):
            self._renew(None)

    def _life(self, now: int) -> int:
        """Draw when a route that begins now is to be replaced."""
        least, most = LIFE_NS
        return now + least + below(most - least, self._random)

    def _begin(self, plan: Plan, now: int, expires: int) -> None:
        watcher = Watcher(self._step, self._ready, self._dead, lambda *_: None)
        self.budget.begun(now)
        built = self._caller.build(plan.path, plan.rate, self._circuit, watcher, now)
        if isinstance(built, Reason):
            self._failed(plan.path, built, True)
            return
        built.expires = expires
        self.routes.append(built)
        self._building = built

    # -- rotation ---------------------------------------------------------------------------------

    def _rotate(self, now: int) -> None:
        """Let one route whose time has come be followed by another."""
        old = next((route for route in self._open() if now >= max(route.expires, self._rotate_at)), None)
        if old is None:
            return
        if self._tries and (ready := self.budget.ready_at(now)) > now:
            self._rotate_at = ready
            return
        others = [route for route in self.routes if route is not old]
        plan, expires = None, self._life(now)
        tries = 2 * TRIES if old.handle in self._after else self._tries
        if tries < TRIES:
            plan = self.planner.successor(old, others, self._wanted, now)
        if plan is None and not others and old.expires != AT_ONCE and tries < 2 * TRIES:
            plan, expires = self.planner.bridge(old, now), AT_ONCE
        if plan is None:
            self._planned += 1
            self.planner.forgive()
            self._let_go(old, now)
            return
        self._leaving = old
        self._begin(plan, now, expires)

    def _let_go(self, route: OwnRoute, now: int) -> None:
        """End a route of our own will, without loss if it is open."""
        if route is self._building:
            self._leaving = None
        self._forget(route)
        if route.state is RouteState.OPEN:
            self.planner.lasted(route.path)
            self.draining.append(route)
            self._caller.drain(route.handle, now)
        else:
            self._caller.end(route.handle, Reason.FINISHED)

    def _forget(self, route: OwnRoute) -> None:
        """A route is none of the circuit's any more."""
        self.routes.remove(route)
        if route is self._building:
            self._building = None
        elif route is self._leaving or self._leaving is None:
            self._leaving = None
            self._tries = self._rotate_at = 0

    # -- what became of a route -------------------------------------------------------------------

    def _ready(self, handle: int) -> None:
        now = self._caller.now
        route, self._building = self._building, None
        assert route is not None
        self.planner.opened(route.path)
        if self._opened and route.incarnation != self._incarnation:
            self._step("the exit has forgotten the circuit; beginning another")
            self._renew(self._bound)
            self._next_try = AT_ONCE  # and paid for: an exit may say so again and again
            return
        self._dark_since = None
        self._opened = True
        self._incarnation = route.incarnation
        self._open_at = now
        if self._leaving is not None:
            self._let_go(self._leaving, now)
        opened = len(self._open())
        self._step(f"circuit open, {opened} of {self._wanted} routes" if self._wanted > 1 else "circuit open")
        if len(self.routes) < self._wanted:
            self._next_try = AT_ONCE

    def _dead(self, handle: int, reason: Reason) -> None:
        self.draining = [route for route in self.draining if route.handle != handle]
        if len(self.routes) < self._wanted:
            self._next_try = AT_ONCE
        route = next((route for route in self.routes if route.handle == handle), None)
        if route is None:
            return  # let go of on purpose
        self._forget(route)
        if self._dark_since is None and self._opened and self.state is CircuitState.CONNECTING:
            self._dark_since = self._caller.now
        self._failed(route.path, reason, self._caller.now - route.started < YOUNG_NS)

    def _failed(self, path: Sequence[KnownNode], reason: Reason, young: bool) -> None:
        self._step(f"failed: {reason.text}; trying again")
        beside = self._leaving is not None
        self.planner.failed(path, reason, young, beside, self._caller.now)
        if beside and self._building is None:
            self._leaving = None
            self._tries += 1
        if len(self.routes) < self._wanted:
            self._next_try = AT_ONCE

    def _step(self, text: str) -> None:
        self.on_step(text)
