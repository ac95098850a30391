"""The rebuild budget: how many routes a circuit may begin, and how soon after one another.

Each route begun is a chance for an adversary, who can make more of them by killing routes (selective denial
of service; docs/threats.md). So builds are paid for, planned ones too, out of two token buckets:

    burst   a few at once, then each waits twice as long as the one before, up to `SLOWEST_NS`: for a relay
            that dies, a route that takes a few tries, an outage of minutes
    supply  `SUPPLY` in all, refilled twice as fast as planned rotation spends it: whoever kills routes can no
            more than double the number of builds in the long run

A circuit that has lost its last route does not wait for what earlier losses have added to the pace, as long
as half of the supply is left: after each build, half of the time that it has been without, or the first wait.
What bounds an adversary is the supply, which is paid as ever.

A planned build (the first ones, rotation) waits for neither: its number is bounded by the lives of routes.
Exits and guards have no budget: they are few and kept (proto.guards), so that a build draws neither.
"""

from __future__ import annotations

from typing import Final

SECOND: Final = 1_000_000_000
AT_ONCE: Final = 2  # unplanned builds beyond one for each route before the waiting begins
FIRST_WAIT_NS: Final = SECOND // 4
SLOWEST_NS: Final = 10 * SECOND  # between two builds, while the supply lasts
FORGET_NS: Final = 10 * SECOND  # the burst forgets one build in so long
SUPPLY: Final = 60  # builds
SUPPLY_REFILL_NS: Final = 300 * SECOND  # for one more, of each route: half a route's mean life
_DOUBLINGS: Final = (SLOWEST_NS // FIRST_WAIT_NS).bit_length()


class Bucket:
    """Tokens, up to `capacity`, and one more each `refill_ns`."""

    __slots__ = ("_at", "_spent", "capacity", "refill_ns")

    def __init__(self, capacity: int, refill_ns: int) -> None:
        self.capacity = capacity
        self.refill_ns = refill_ns
        self._spent = 0.0
        self._at = 0

    def spent(self, now: int) -> float:
        """Return how many tokens are missing."""
        return max(0.0, self._spent - max(0, now - self._at) / self.refill_ns)

    def take(self, now: int) -> None:
        """Spend one token; the last one can be spent again and again, for what must not wait."""
        self._spent = min(self.spent(now) + 1, self.capacity)
        self._at = now

    def ready_at(self, now: int) -> int:
        """Return when there is a whole token: `now` or later."""
        owed = self.spent(now) + 1 - self.capacity
        return now + max(0, round(owed * self.refill_ns))

    def refill_in(self, refill_ns: int, now: int) -> None:
        """Refill at another pace from now on."""
        self._spent, self._at = self.spent(now), now
        self.refill_ns = refill_ns

    def fill(self) -> None:
        """Forget all that was spent."""
        self._spent = 0.0


class RebuildBudget:
    """What one circuit may build. Times are monotonic ns."""

    def __init__(self) -> None:
        self._routes = 1
        self._supply = Bucket(SUPPLY, SUPPLY_REFILL_NS)
        self._burst = Bucket(1, FORGET_NS)
        self._last = 0
        self.resize(1, 0)

    def renew(self, routes: int, now: int) -> None:
        """A person asked for a circuit of so many routes: all that was spent before is forgiven."""
        for bucket in (self._supply, self._burst):
            bucket.fill()
        self.resize(routes, now)

    def resize(self, routes: int, now: int) -> None:
        """The circuit has so many routes from now on."""
        self._supply.refill_in(SUPPLY_REFILL_NS // routes, now)
        self._routes = routes
        self._burst.capacity = routes + AT_ONCE + _DOUBLINGS

    def left(self, now: int) -> int:
        """Return how many builds the supply still holds."""
        return int(self._supply.capacity - self._supply.spent(now))

    def ready_at(self, now: int, dark_since: int | None = None) -> int:
        """Return when the next build that nobody planned may begin.

        `dark_since`: when the circuit lost the last of its routes that were open, if it has none.
        """
        over = int(self._burst.spent(now)) - self._routes - AT_ONCE
        wait = min(SLOWEST_NS, FIRST_WAIT_NS << over) if over >= 0 else 0
        if dark_since is not None and self.left(now) > SUPPLY // 2:
            wait = min(wait, max(FIRST_WAIT_NS, (self._last - dark_since) // 2))
        return max(now, self._last + wait, self._supply.ready_at(now))

    def begun(self, now: int) -> None:
        """A build has begun, planned or not."""
        self._last = now
        self._burst.take(now)
        self._supply.take(now)
