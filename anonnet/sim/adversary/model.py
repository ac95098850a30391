"""The model's terms: who attacks, in which network, and what a caller does about it.

A circuit is *compromised* while the first relay of one of its routes and its exit are both corrupt. All
routes of a circuit share the exit, and routes change every ten minutes while the exit stays, so what
exposes a caller is each pair of (first relay, exit) that it has ever used together.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from anonnet.proto.guards import EXITS as EXITS_WANTED
from anonnet.proto.guards import GUARD_DAYS, guards_wanted
from anonnet.proto.keeper import LIFE_NS
from anonnet.proto.kept import LAST_SKIP_NS, LIFE_DAYS
from anonnet.proto.rebuild import SUPPLY, SUPPLY_REFILL_NS

DAYS: Final = 30
STEP_SECONDS: Final = sum(LIFE_NS) / 2 / 1e9  # in which each route is replaced once
STEPS_PER_DAY: Final = round(86_400 / STEP_SECONDS)
EXIT_SUPPLY: Final = 4  # a budget for exits, as a list of exits makes it unnecessary: so many at once ...
EXIT_REFILL_NS: Final = 7_200_000_000_000  # ... and one more in so long
SKIP_STEPS: Final = round(LAST_SKIP_NS / 1e9 / STEP_SECONDS)  # how long a guard that failed comes last


class Attack(Enum):
    """What corrupt relays do with a route that they are on.

    They know each other's routes at once and without error, as nobody can in practice: the worst case.
    """

    WATCH = "watch"  # nothing
    KILL = "kill"  # end it, unless they hold both its ends
    WAIT = "wait"  # as KILL, but a corrupt exit keeps what it has and waits for a first relay


@dataclass(frozen=True, slots=True)
class Budget:
    """Token buckets of a circuit, with the seconds in which each gains one token.

    builds: all builds are paid from it, and those that nobody planned wait for it; it refills faster with
    more routes (`proto.rebuild`). exits: exits drawn; means nothing where exits are kept.
    """

    builds: float = SUPPLY
    build_seconds: float = SUPPLY_REFILL_NS / 1e9
    exits: float = EXIT_SUPPLY
    exit_seconds: float = EXIT_REFILL_NS / 1e9


@dataclass(frozen=True, slots=True)
class Kept:
    """Nodes drawn once and kept: how many, and for how many days each, drawn evenly from least to most."""

    count: int
    days: tuple[float, float]

    @property
    def mean_days(self) -> float:
        """Mean life of one."""
        return sum(self.days) / 2


@dataclass(frozen=True, slots=True)
class Policy:
    """What a caller does.

    guards: whom it begins routes with, None: anybody, anew for every route. exits: whom it ends circuits
    with, None: anybody, anew for every circuit. budget: None: as fast as the back-off lets it. in_turn:
    whether a guard whose routes die loses its turn to the next on the list, before the exit is given up.
    """

    routes: int = 2
    hops: int = 3
    guards: Kept | None = None
    exits: Kept | None = None
    budget: Budget | None = None
    in_turn: bool = True


EXITS: Final = Kept(EXITS_WANTED, LIFE_DAYS)  # as `proto.guards` keeps them


def guards(routes: int) -> Kept:
    """Return the guards of a circuit, as `proto.guards` keeps them."""
    return Kept(guards_wanted(routes), GUARD_DAYS)


@dataclass(frozen=True, slots=True)
class Network:
    """Relays, any of which may be an exit. Honest ones fail now and then, corrupt ones never do.

    up_days: mean time between two failures of an honest relay; outage_hours: mean length of one.
    """

    relays: int = 500
    up_days: float = 7.0
    outage_hours: float = 2.0

    @property
    def failures(self) -> float:
        """Chance that an honest relay fails in one step."""
        return 1 / (self.up_days * STEPS_PER_DAY)

    @property
    def returns(self) -> float:
        """Chance that one that has failed is back in one step."""
        return min(1.0, STEP_SECONDS / (self.outage_hours * 3600))
