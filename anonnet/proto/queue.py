"""The forward queue of a relay: cells in by slot number, cells out by the clock (docs/protocol.md section 5).

It takes up network jitter, fills gaps, and hides what happened on one link from the next. Four rules:

- *sync*: the first cell, or one beyond the ring, sets the next slot due `prefill` cells before it; what
  lies before that is dropped (a full queue drops the oldest).
- *gap*: a slot that is due and absent while later ones are here is consumed; a substitute goes out.
- *dry*: when nothing later is here either, the source is late. Once in `HOLD_SPACING` ticks the queue
  holds, which takes up clock drift without loss; otherwise it consumes, so that whoever delays one
  link is not echoed on the others.
- *rewind*: a run of `prefill` late cells with no timely one among them means the source itself stood
  still: sync on it again.
"""

from __future__ import annotations

from typing import Final

from anonnet.spec import SLOT_MASK, Format
from anonnet.wire.cell import CellRow, rows

HOLD_SPACING: Final = 256  # ticks; a hold is the only thing the next hop can notice
PREFILL_TICKS: Final = 1.0
DEPTH_TICKS: Final = 4
_HALF: Final = 1 << 31
_EMPTY: Final = -1


class ForwardQueue:
    """Ring of preallocated cells of one route and direction; sizes in cells."""

    __slots__ = ("_filled", "_last_hold", "_late_run", "_mask", "_newest", "_rows", "_synced",
                 "missing", "next", "prefill", "received", "slips")  # fmt: skip

    def __init__(self, fmt: Format, per_tick: float) -> None:
        self.prefill = max(1, round(PREFILL_TICKS * per_tick))
        capacity = 1 << max(3, int(DEPTH_TICKS * per_tick + self.prefill).bit_length())
        self._rows = rows(fmt, capacity)
        self._filled = [_EMPTY] * capacity
        self._mask = capacity - 1
        self._synced = False
        self._late_run = 0
        self._last_hold = -HOLD_SPACING
        self.next = 0  # slot due next
        self._newest = 0
        self.received = self.missing = self.slips = 0

    def start(self, next_slot: int) -> None:
        """Fix the next slot due before any cell has come (a hop that numbered its own cells so far)."""
        self.next = next_slot
        self._newest = (next_slot - 1) & SLOT_MASK
        self._synced = True

    def _sync(self, slot: int) -> None:
        if self._synced:
            self.slips += 1
        self._synced = True
        self._late_run = 0
        self.next = (slot - self.prefill) & SLOT_MASK
        self._newest = slot

    def claim(self, slot: int) -> CellRow | None:
        """Return the row to write slot `slot` into, then `commit` it; None if late or a duplicate."""
        ahead = (slot - self.next) & SLOT_MASK
        if ahead > self._mask:
            if ahead >= _HALF and self._synced:
                self._late_run += 1
                if self._late_run <= self.prefill:
                    return None
            self._sync(slot)
        index = slot & self._mask
        if self._filled[index] == slot:
            return None
        return self._rows[index]

    def commit(self, slot: int) -> None:
        """The claimed row of `slot` now holds its cell."""
        self._filled[slot & self._mask] = slot
        self._late_run = 0
        self.received += 1
        if (slot - self._newest) & SLOT_MASK < _HALF:
            self._newest = slot

    def note(self, slot: int) -> None:
        """The claimed slot was for this hop itself: nothing to forward, but the source is alive."""
        self._late_run = 0
        if (slot - self._newest) & SLOT_MASK < _HALF:
            self._newest = slot

    def take(self, tick: int) -> tuple[int, CellRow | None] | None:
        """Return the slot due and its row (None: absent, substitute it), or None to hold this tick."""
        slot = self.next
        index = slot & self._mask
        if self._filled[index] == slot:
            self._filled[index] = _EMPTY
            self.next = (slot + 1) & SLOT_MASK
            return slot, self._rows[index]
        if not self._synced:
            return None
        if (self._newest - slot) & SLOT_MASK >= _HALF and tick - self._last_hold >= HOLD_SPACING:
            self._last_hold = tick
            self.slips += 1
            return None
        self.missing += 1
        self.next = (slot + 1) & SLOT_MASK
        return slot, None
