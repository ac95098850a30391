"""Admission control: a link never promises more slots than it has (design 5).

Rates are millicells per second; `out` is what this node sends. Both ends of a link keep the same books.

First come, first served would leave those who come last nothing. So a relay with many links promises one
route at most a part of what is still free of the next (`parts_of`): whoever comes finds something, and when
a route that has more than others is replaced, its successor is refused as much. The part hangs on what
everybody can know, the number of links, and on nothing that others have or want: slots that were given back
on demand would tell whoever demands them whose route goes where (docs/threats.md).
"""

from __future__ import annotations

from typing import Final

from anonnet.proto.orders import RATE_UNIT
from anonnet.proto.profile import Schedule

CONTROL_SHARE: Final = 32  # one slot in so many is never promised: control channel, rekeying, set-up
CONTROL_LEAST: Final = 400  # nor fewer than so many millicells a second: on the slowest links, below 28.8
# kbit/s, rekeying would else take longer than keys last, and the link would go down
TEST_SHARE: Final = 64  # and a caller leaves one in so many free for `ping` and debugging runs
FEW_LINKS: Final = 3  # a relay with no more is a stage of somebody's chain, and promises all that it has ...
PARTS: Final = 4  # ... others to one route at most one of so many parts; a power of two: callers halve


def parts_of(links: int) -> int:
    """Return in how many parts a relay with so many links divides what is free of one of them."""
    return PARTS if links > FEW_LINKS else 1


class LinkBudget:
    """Slots of one link: what there is, and to which route it is promised."""

    def __init__(self, schedule: Schedule) -> None:
        self.capacity_out, self.capacity_in = (
            _promisable(cells, schedule.tick_ns) for cells in (schedule.cells_out, schedule.cells_in)
        )
        self._promised: dict[int, tuple[int, int]] = {}

    @property
    def free_out(self) -> int:
        """What may still be promised of the slots that this node sends."""
        return self.capacity_out - sum(out for out, _ in self._promised.values())

    @property
    def free_in(self) -> int:
        """The same for those that it receives."""
        return self.capacity_in - sum(in_ for _, in_ in self._promised.values())

    def reserve(self, route: int, out: int, in_: int, parts: int = 1) -> bool:
        """Promise slots to a route; False, and nothing changed, if there are not enough.

        It gets one of so many parts of what is free at most; a thin one may have the last.
        """
        if 2 * TEST_SHARE * out <= self.capacity_out and 2 * TEST_SHARE * in_ <= self.capacity_in:
            parts = 1
        if route in self._promised or out * parts > self.free_out or in_ * parts > self.free_in:
            return False
        self._promised[route] = (out, in_)
        return True

    def release(self, route: int) -> None:
        """Take back what a route was promised, if anything."""
        self._promised.pop(route, None)

    def clear(self) -> None:
        """The link is gone and every route with it."""
        self._promised.clear()


def _promisable(cells: int, tick_ns: int) -> int:
    """Return what routes may have of so many cells a tick, the control channel's share taken off."""
    whole = cells * RATE_UNIT
    shared = whole * (CONTROL_SHARE - 1) // (tick_ns * CONTROL_SHARE)
    return max(0, min(shared, whole // tick_ns - CONTROL_LEAST))
