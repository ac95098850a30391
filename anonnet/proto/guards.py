"""Guards and exits of this host: the two ends that tell an adversary who speaks with whom, so few of each.

Whoever runs a route's first relay and its exit has both ends. If routes began with another neighbour each
time, or ended at another exit, an adversary with a share of them would sooner or later have both, for every
host (predecessor attack); with few that are kept, most hosts never meet him (docs/adversary.md). After Tor's
guard-spec (proposal 271), made smaller; proto.kept draws and keeps. Guards are

    drawn     among all neighbours, whether they can be reached or not: `SPARE_GUARDS` more than the circuit
              has routes, since a route's successor opens beside it, where the slots are
    used      in order: the first ones that are up
    more      when none of them has been up for `ALONE_NS` (or too few for `GONE_NS`), though another
              neighbour has all that time: one at a time, never more than twice as many as are wanted

Exits are drawn among all that are known, `EXITS` and one more for each other circuit that must have its own;
and one more when each has been given up `GIVEN_UP` times running, up to twice as many.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from anonnet.ids import NodeId
from anonnet.proto.kept import LIFE_DAYS, KeptNodes
from anonnet.proto.neighbours import Neighbour

GUARD_DAYS: Final = LIFE_DAYS
SPARE_GUARDS: Final = 1  # beyond one for each route
ALONE_NS: Final = 30_000_000_000
GONE_NS: Final = 3_600_000_000_000
EXITS: Final = 2
GIVEN_UP: Final = 3


def guards_wanted(routes: int) -> int:
    """Return how many guards a circuit of so many routes has."""
    return routes + SPARE_GUARDS


class Guards(KeptNodes):
    """The guards of this host; all its circuits share them."""

    def choose(self, neighbours: Iterable[Neighbour], excluded: Collection[NodeId], wanted: int,
               now: int) -> list[Neighbour]:  # fmt: skip
        """Return at most `wanted` neighbours with which a route may begin now, the best one first."""
        there = {n.node_id: n for n in neighbours if n.node_id in self._nodes}
        self._renew(there)
        allowed = {node_id: n for node_id, n in there.items() if node_id not in excluded}
        self._sample(allowed, wanted, now)
        up = [node_id for node_id, n in allowed.items() if n.up]
        return [allowed[node_id] for node_id in self._in_order(up, now)[:wanted]]

    def _sample(self, allowed: Mapping[NodeId, Neighbour], wanted: int, now: int) -> None:
        """Draw guards until there are as many as wanted; draw another for one that seems to be gone."""
        have = [one.node_id for one in self if one.node_id in allowed]
        fresh = [node_id for node_id in allowed if node_id not in have]
        while len(have) < wanted and fresh:
            have.append(self._draw(fresh, have))
            fresh.remove(have[-1])
        up = sum(allowed[node_id].up for node_id in have)
        patience = GONE_NS if up else ALONE_NS
        still = [node_id for node_id, n in allowed.items() if now - n.since >= patience]
        steady = [node_id for node_id in still if node_id in fresh and allowed[node_id].up]
        gone = [node_id for node_id in still if node_id in have and not allowed[node_id].up]
        if steady and gone and up < max(1, wanted - SPARE_GUARDS) and len(have) < 2 * wanted:
            self._draw(steady, have)


class Exits(KeptNodes):
    """The exits of this host, when it leaves the choice to us; all its circuits share them."""

    def choose(self, listed: Collection[NodeId], excluded: Collection[NodeId], others: int,
               now: int) -> list[NodeId]:  # fmt: skip
        """Return the exits to use, the best one first; `others` are circuits that must have their own."""
        self._renew(listed)
        allowed = [node_id for node_id in listed if node_id not in excluded]
        have = [one for one in self if one.node_id in allowed]
        ids = [one.node_id for one in have]
        fresh = [node_id for node_id in allowed if node_id not in ids]
        wanted = EXITS + others
        if len(have) >= wanted and all(one.failures >= GIVEN_UP for one in have):
            wanted = min(len(have) + 1, 2 * wanted)
        while len(ids) < wanted and fresh:
            ids.append(self._draw(fresh, ids))
            fresh.remove(ids[-1])
        return self._in_order(ids, now)
