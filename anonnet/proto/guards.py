"""Entry guards: the few neighbours with which this host's routes begin, kept for months.

Whoever runs a route's first relay and its exit knows who speaks with whom. If each route began with another
neighbour, an adversary with a share of them would sooner or later be there, for every host (predecessor
attack); with few that are kept, most hosts never meet him (docs/threats.md). After Tor's guard-spec
(proposal 271), made smaller:

    sampled   by chance among all neighbours, whether they can be reached or not: `SPARE_GUARDS` more than the
              circuit has routes, since a route's successor opens beside it, where the slots are
    kept      for a life drawn by chance, and not a day less because they cannot be reached
    in order  of sampling: the first ones that are up; one that fails comes last for a while
    more      when none of them has been up for `ALONE_NS` (or too few for `GONE_NS`), though another
              neighbour has all that time: one at a time, never more than twice as many as are wanted

Days are counted from 1970 by the wall clock and are what is kept on disk; ns are monotonic.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from anonnet.ids import NodeId
from anonnet.proto.neighbours import Neighbour
from anonnet.proto.path import KnownNode, below, related

GUARD_DAYS: Final = (60, 120)  # a guard's life, from the least to the most, drawn evenly
SPARE_GUARDS: Final = 1  # beyond one for each route
UNLISTED_DAYS: Final = 20  # a guard that is no neighbour any more is forgotten after so many
ALONE_NS: Final = 30_000_000_000
GONE_NS: Final = 3_600_000_000_000
FIRST_SKIP_NS: Final = 30_000_000_000  # how long one that failed is used only for want of others; doubled ...
LAST_SKIP_NS: Final = 3_600_000_000_000  # ... with each failure, up to this


@dataclass(slots=True)
class Guard:
    """One guard: what is kept on disk, and how it does in this run."""

    node_id: NodeId
    expires: int  # day
    unlisted: int | None = None  # day since which it is no neighbour
    failures: int = 0  # since it last worked
    retry_at: int = 0  # ns; before, it comes last


def guards_wanted(routes: int) -> int:
    """Return how many guards a circuit of so many routes has."""
    return routes + SPARE_GUARDS


class Guards:
    """The guards of this host, in order of sampling; all its circuits share them."""

    def __init__(self, nodes: Mapping[NodeId, KnownNode], random: Callable[[int], bytes],
                 today: Callable[[], int], kept: Iterable[Guard] = ()) -> None:  # fmt: skip
        self.changed = False  # what is kept on disk, since whoever keeps it reset this
        self._nodes = nodes
        self._random = random
        self._today = today
        self._guards = list(kept)

    def __iter__(self) -> Iterator[Guard]:
        return iter(self._guards)

    def choose(self, neighbours: Iterable[Neighbour], excluded: Collection[NodeId], wanted: int,
               now: int) -> list[Neighbour]:  # fmt: skip
        """Return at most `wanted` neighbours with which a route may begin now, the best one first."""
        there = {n.node_id: n for n in neighbours if n.node_id in self._nodes}
        self._renew(there)
        allowed = {node_id: n for node_id, n in there.items() if node_id not in excluded}
        self._sample(allowed, wanted, now)
        usable = [g for g in self._guards if g.node_id in allowed and allowed[g.node_id].up]
        usable.sort(key=lambda guard: guard.retry_at > now)
        return [allowed[guard.node_id] for guard in usable[:wanted]]

    def failed(self, node_id: NodeId, now: int) -> None:
        """A route could not begin with this guard, though its link was up."""
        for guard in self._guards:
            if guard.node_id == node_id:
                guard.retry_at = now + min(LAST_SKIP_NS, FIRST_SKIP_NS << min(guard.failures, 16))
                guard.failures += 1

    def worked(self, node_id: NodeId) -> None:
        """A route that begins with this guard has opened."""
        for guard in self._guards:
            if guard.node_id == node_id:
                guard.failures = guard.retry_at = 0

    # -- the sample -------------------------------------------------------------------------------

    def _renew(self, listed: Collection[NodeId]) -> None:
        """Forget guards whose life is over, and those that have not been neighbours for long."""
        today = self._today()
        left = []
        for guard in self._guards:
            since = None if guard.node_id in listed else today if guard.unlisted is None else guard.unlisted
            self.changed |= since != guard.unlisted
            guard.unlisted = since
            if today < guard.expires and (since is None or today < since + UNLISTED_DAYS):
                left.append(guard)
        self.changed |= len(left) < len(self._guards)
        self._guards = left

    def _sample(self, allowed: Mapping[NodeId, Neighbour], wanted: int, now: int) -> None:
        """Draw guards until there are as many as wanted; draw another for one that seems to be gone."""
        have = [allowed[g.node_id] for g in self._guards if g.node_id in allowed]
        fresh = [n for n in allowed.values() if n not in have]
        while len(have) < wanted and fresh:
            have.append(self._draw(fresh, have))
        up = sum(n.up for n in have)
        patience = GONE_NS if up else ALONE_NS
        steady = [n for n in fresh if n.up and now - n.since >= patience]
        gone = [n for n in have if not n.up and now - n.since >= patience]
        if steady and gone and up < max(1, wanted - SPARE_GUARDS) and len(have) < 2 * wanted:
            self._draw(steady, have)

    def _draw(self, fresh: list[Neighbour], have: Sequence[Neighbour]) -> Neighbour:
        """Make a guard of one of `fresh`, if possible of one that is not related to those that there are."""

        def apart(one: Neighbour) -> bool:
            return not any(related(self._nodes[one.node_id], self._nodes[n.node_id]) for n in have)

        candidates = sorted([n for n in fresh if apart(n)] or fresh, key=lambda n: n.node_id)
        picked = candidates[below(len(candidates), self._random)]
        fresh.remove(picked)
        least, most = GUARD_DAYS
        life = least + below(most - least + 1, self._random)
        self._guards.append(Guard(picked.node_id, self._today() + life))
        self.changed = True
        return picked
