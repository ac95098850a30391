"""Whether the cells of a route that has just grown come as a clock owes them, so that a hop may number them.

A hop fixes by one cell from beyond it how all later ones are numbered, and says so to the caller once and for
all. That cell must not be one of those that were sealed before their sender stood still, or that piled up
while this node did: what comes after would be numbered past the end of the queue, for as long as the route
lasts. Until it is clear, the hop fills its slots itself, as it did before.
"""

from __future__ import annotations

from typing import Final

from anonnet.spec import SLOT_MASK

MS: Final = 1_000_000
LAST_NS: Final = 20 * MS  # cells or ticks further apart than this are not waited for: a queue holds eight
SETTLED: Final = 0.75  # of a tick that cells must have come in step: a whole one, less jitter
TOLERANCE: Final = 1.5  # ticks: a batch comes at once, and with jitter
_HALF: Final = 1 << 31


class Beginning:
    """The first cells of one direction. `per_tick`: cells in `tick_ns`, the longer one of both links."""

    __slots__ = ("_at", "_at_once", "_per_ns", "_settled", "_slot", "_tolerance", "per_tick")

    def __init__(self, per_tick: float, tick_ns: int) -> None:
        self.per_tick = per_tick
        self._per_ns = per_tick / tick_ns
        self._settled = SETTLED * tick_ns
        self._tolerance = TOLERANCE * per_tick + 1
        self._at_once = max(tick_ns, 1 / self._per_ns) > LAST_NS
        self._at = -1  # when the cell came that others are compared with; ns
        self._slot = 0

    def steady(self, slot: int, now: int) -> bool:
        """Take note of a cell that came; True if the numbering may rest on it."""
        ahead = (slot - self._slot) & SLOT_MASK
        ahead -= (ahead & _HALF) << 1
        lasted = now - self._at
        if self._at < 0 or abs(ahead - lasted * self._per_ns) > self._tolerance:
            self._at, self._slot = now, slot
            return self._at_once
        return lasted >= self._settled
