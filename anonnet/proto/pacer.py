"""Ticks by the absolute clock (design 4, Schedule).

All links of one tick length share a beat. A beat's deadlines are `start + n * tick` and a draw, whatever
happened before: a late tick is sent at once and the schedule kept; ticks missed altogether are skipped, never
sent in a burst. The draw is made before, and without looking at, any traffic: up to half a tick if
`randomised`, else up to a third of a millisecond, under which it is lost that a timer of a busy host fires
a microsecond or two later than that of an idle one (Fu et al. 2003; measured in docs/performance.md). It is
uniform: of all draws with one standard deviation, that has the lowest peak, and what a small shift of all
moments changes in their distribution is the shift times the peak.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

LATE_NS: Final = 1_000_000  # what begins to go out later than this counts as late
LEAD_BASE_NS: Final = 400_000  # taking in and sealing start this long before the deadline ...
LEAD_CELL_NS: Final = 10_000  # ... plus this, or the engine's, for each cell that the beat sends; never
# measured, so that the moment of sealing says nothing of how busy the node is
RANDOM_SHARE: Final = 2  # randomised: deadlines move by up to a tick over this,
DITHER_NS: Final = 320_000  # fixed: by up to this, with a standard deviation of 92 us,
DITHER_SHARE: Final = 3  # or a tick over this, if that is less


class Beat:
    """The schedule of one tick length; times in ns of the monotonic clock."""

    def __init__(
        self, tick_ns: int, now: int, random: Callable[[int], bytes], randomised: bool = False,
        lead_cell_ns: int = LEAD_CELL_NS,
    ) -> None:  # fmt: skip
        self.tick_ns = tick_ns
        self.tick = 0
        self._random = random
        self._lead_cell_ns = lead_cell_ns
        self._spread = tick_ns // RANDOM_SHARE if randomised else min(DITHER_NS, tick_ns // DITHER_SHARE)
        self._base = now + tick_ns + int.from_bytes(random(4), "big") % tick_ns
        self.deadline = self._base
        self.cells = 0

    @property
    def prepare_at(self) -> int:
        """When to seal the next batch."""
        lead = LEAD_BASE_NS + self._lead_cell_ns * self.cells
        return self.deadline - min(lead, self.tick_ns // 2)

    def advance(self, began: int, took: int = 0) -> tuple[bool, int]:
        """The batch went out, and took so long (ns): return whether it was late, how many ticks are skipped.

        What it takes is no lateness: 500 cells take a millisecond on raw sockets, in each tick.
        """
        late = began - self.deadline > LATE_NS
        skipped = max(0, (began + took - self._base) // self.tick_ns)
        self._base += (skipped + 1) * self.tick_ns
        self.tick += skipped + 1
        self.deadline = self._base + int.from_bytes(self._random(4), "big") % self._spread
        return late, skipped
