"""The circuits that the host wants: one keeper for each, which share this node's links evenly.

They differ in their routes, in the secret that names them to an exit, hence in their address there, and, if
wished, in their exits. Which packet goes into which of them is for proto.isolation to say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from anonnet.ids import NodeId
from anonnet.proto.caller import OwnRoute
from anonnet.proto.isolation import Isolation
from anonnet.proto.keeper import CircuitKeeper, CircuitState
from anonnet.proto.orders import Isolate, Order
from anonnet.proto.path import EXCLUDE_NOTHING, Exclusion
from anonnet.proto.redundancy import STRIPE, Redundancy

DistinctExits = Literal["auto"] | bool  # "auto": as long as there is another


@dataclass(frozen=True)
class Wanted:
    """What the host wants: so many circuits, of `routes` routes of `hops` hops, to one exit (None: any)."""

    exit_id: NodeId | None
    hops: int
    routes: int
    redundancy: Redundancy = STRIPE
    circuits: int = 1
    isolate: Isolation = Isolation.OFF
    distinct_exits: DistinctExits = "auto"
    excluded: Exclusion = EXCLUDE_NOTHING


class Keepers:
    """The keepers, by number from 1 on. The first is always there, and wants nothing while all is down."""

    def __init__(self, make: Callable[[int], CircuitKeeper], order: Callable[[Order], None]) -> None:
        self.all = [make(1)]
        self.wanted: Wanted | None = None
        self._make = make
        self._order = order

    @property
    def state(self) -> CircuitState:
        """Up if any circuit is: what belongs to the others waits for them."""
        states = {keeper.state for keeper in self.all}
        return next(s for s in (CircuitState.UP, CircuitState.CONNECTING, CircuitState.DOWN) if s in states)

    @property
    def complete(self) -> bool:
        """Whether every circuit is up."""
        return all(keeper.state is CircuitState.UP for keeper in self.all)

    @property
    def trouble(self) -> str:
        """What stands in the way of the first circuit that is not up."""
        found = (k for k in self.all if k.state is not CircuitState.UP and k.trouble)
        return next((self._named(keeper, keeper.trouble) for keeper in found), "")

    @property
    def routes(self) -> list[OwnRoute]:
        """The routes of all circuits."""
        return [route for keeper in self.all for route in keeper.routes]

    def _named(self, keeper: CircuitKeeper, text: str) -> str:
        return f"circuit {keeper.number}: {text}" if len(self.all) > 1 else text

    def on_step(self, say: Callable[[str], None]) -> None:
        """Tell every step of every circuit from now on."""
        for keeper in self.all:
            keeper.on_step = lambda text, keeper=keeper: say(self._named(keeper, text))  # type: ignore[misc]

    def want(self, wanted: Wanted, now: int) -> None:
        """Open these circuits and keep them open; those that there are go on as far as they fit the wish."""
        self._order(Isolate(wanted.isolate, wanted.circuits))
        if wanted.circuits != len(self.all):
            more = wanted.circuits < len(self.all)
            for keeper in self.all[wanted.circuits :]:
                keeper.drop()
            self.all = self.all[: wanted.circuits]
            for keeper in self.all:
                keeper.renew_routes(now, more)
            self.all += [self._make(number) for number in range(len(self.all) + 1, wanted.circuits + 1)]
        self.wanted = wanted
        for keeper in self.all:
            keeper.planner.sharers = wanted.circuits
            keeper.planner.strict = wanted.distinct_exits is True
            keeper.want(wanted.exit_id, wanted.hops, wanted.routes, now, wanted.redundancy, wanted.excluded)

    def drop(self) -> None:
        """Close all circuits, want none, and forget what belonged to which."""
        for keeper in self.all:
            keeper.drop()
        self.all = self.all[:1]
        self.wanted = None
        self._order(Isolate(Isolation.OFF, 1))

    def next_deadline(self) -> int | None:
        """When a keeper has something to do."""
        due = (keeper.next_deadline() for keeper in self.all)
        return min((at for at in due if at is not None), default=None)

    def on_deadline(self, now: int) -> None:
        """Let each keeper act, in knowledge of what the others have."""
        for keeper in self.all:
            others = [other for other in self.all if other is not keeper]
            if self.wanted is not None and self.wanted.distinct_exits:
                keeper.planner.avoid = {exit_id for other in others for exit_id in other.exits}
            else:
                keeper.planner.avoid = ()
            keeper.on_deadline(now)
