"""Nodes that this host has drawn by chance and keeps for months: guards and exits.

    drawn    the network first (/16, /32), then the node in it: who has many addresses in few networks gains
             little; if possible from another network than those that there are
    kept     for a life drawn by chance, and not a day less because it cannot be reached or fails
    in order of drawing; one that fails comes last for a while, which grows with each failure
    gone     it is forgotten when its life is over, or when it has not been listed for long

Days are counted from 1970 by the wall clock and are what is kept on disk; ns are monotonic.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from anonnet.ids import NodeId
from anonnet.proto.path import KnownNode, below, related

LIFE_DAYS: Final = (60, 120)  # from the least to the most, drawn evenly
UNLISTED_DAYS: Final = 20
FIRST_SKIP_NS: Final = 30_000_000_000  # how long one that failed is used only for want of others; doubled ...
LAST_SKIP_NS: Final = 3_600_000_000_000  # ... with each failure, up to this


@dataclass(slots=True)
class Kept:
    """One node: what is kept on disk, and how it does in this run."""

    node_id: NodeId
    expires: int  # day
    unlisted: int | None = None  # day since which it is not listed
    failures: int = 0  # since it last worked
    retry_at: int = 0  # ns; before, it comes last


class KeptNodes:
    """Such nodes, in order of drawing."""

    def __init__(self, nodes: Mapping[NodeId, KnownNode], random: Callable[[int], bytes],
                 today: Callable[[], int], kept: Iterable[Kept] = ()) -> None:  # fmt: skip
        self.changed = False  # what is kept on disk, since whoever keeps it reset this
        self._nodes = nodes
        self._random = random
        self._today = today
        self._kept = list(kept)

    def __iter__(self) -> Iterator[Kept]:
        return iter(self._kept)

    def failed(self, node_id: NodeId, now: int) -> None:
        """A route by this node has failed."""
        for one in self._kept:
            if one.node_id == node_id:
                one.retry_at = now + min(LAST_SKIP_NS, FIRST_SKIP_NS << min(one.failures, 16))
                one.failures += 1

    def worked(self, node_id: NodeId) -> None:
        """A route by this node has lived its life."""
        for one in self._kept:
            if one.node_id == node_id:
                one.failures = one.retry_at = 0

    def _in_order(self, usable: Collection[NodeId], now: int) -> list[NodeId]:
        """Return those kept that are usable, the best one first."""
        found = [one for one in self._kept if one.node_id in usable]
        return [one.node_id for one in sorted(found, key=lambda one: one.retry_at > now)]

    def _renew(self, listed: Collection[NodeId]) -> None:
        """Forget nodes whose life is over, and those that have not been listed for long."""
        today = self._today()
        left = []
        for one in self._kept:
            since = None if one.node_id in listed else today if one.unlisted is None else one.unlisted
            self.changed |= since != one.unlisted
            one.unlisted = since
            if today < one.expires and (since is None or today < since + UNLISTED_DAYS):
                left.append(one)
        self.changed |= len(left) < len(self._kept)
        self._kept = left

    def _draw(self, fresh: Collection[NodeId], have: Collection[NodeId]) -> NodeId:
        """Keep one of `fresh`, if possible one that is not related to those that there are."""

        def apart(one: NodeId) -> bool:
            return not any(related(self._nodes[one], self._nodes[other]) for other in have)

        networks: dict[bytes, list[NodeId]] = {}
        for node_id in sorted([one for one in fresh if apart(one)] or fresh):
            networks.setdefault(min(self._nodes[node_id].networks, default=b""), []).append(node_id)
        among = networks[sorted(networks)[below(len(networks), self._random)]]
        picked = among[below(len(among), self._random)]
        least, most = LIFE_DAYS
        life = least + below(most - least + 1, self._random)
        self._kept.append(Kept(picked, self._today() + life))
        self.changed = True
        return picked
