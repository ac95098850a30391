"""The forward queue of a relay: cells in by slot number, cells out by the clock (docs/protocol.md section 5).

It takes up network jitter, fills gaps, and hides what happened on one link from the next. Nothing that a
single cell does, by coming late, twice, changed or not at all, alters what goes out, but for the
substitute in its place; or relays that are not neighbours could mark a route for each other.

- *sync*: the first cell sets the next slot due `prefill` cells before it, once and for all; but one far
  ahead does so again as long as nothing has gone out (this node stood still as the route began, and what
  piled up meanwhile comes in at once), or no more than a tick's cells have come in (the sender stood still).
- *gap*: a slot that is due and absent is consumed; a substitute goes out. So is a late cell's.
- *slip*: clocks drift. Once in `SLIP_SPACING` ticks, at a moment that only this relay's clock sets, the
  queue may leave out a tick (*hold*) or a tick's worth of slots (*skip*), if most cells of all that while
  came with less reserve than `prefill`, or with two ticks too much.
- *steps*: at nearly a cell a tick, sender and relay leave a tick out now and then, each at moments of its
  own. In between cells come a tick nearer to their turn than else: few of them or many, as these moments
  happen to lie. So cells come with `n` or `n + 1` in reserve, and on average it should be one to two: below
  7/8 a hold is due, above 2 1/8 a skip. These are more than a tick apart, so neither brings about the other.
  But an earlier relay that makes up for its drift moves all cells by a tick, to which they then drift back:
  after each hold, four times as many turns one after the other must ask for a skip.

Slots are owed by the clock: a node that stood still passes over those of the ticks that it skipped
(`skip`), and so everybody else's schedule goes on to fit; but a queue of which nothing has gone out since it
began takes its place from what comes, now or after that. After a long stall it counts anew for the next
slip: what piled up meanwhile was judged against a slot number that stood still, too.
"""

from __future__ import annotations

from math import ceil
from typing import Final, NamedTuple

from anonnet.spec import SLOT_MASK, Format
from anonnet.wire.cell import CellRow, rows

SLIP_SPACING: Final = 256  # ticks; a slip is the only thing the next hop can notice
NEARLY: Final = 0.5  # cells a tick, and less than one: comes in steps
SURPLUS: Final = 1 / 8  # of all cells: if they come in steps, what few late or replayed ones cannot make up
CAUTION: Final = 4  # after a hold: turns that must ask for a skip, times this
MOST_CAUTION: Final = 64  # turns; clocks 100 ppm apart drift by a tick in 40
LONG_STALL: Final = 0.25  # share of the majority that a stall of this node may seem to be for a slip
PREFILL_TICKS: Final = 1.0
DEPTH_TICKS: Final = 4
_HALF: Final = 1 << 31
_EMPTY: Final = -1


class Sizes(NamedTuple):
    """What follows from how many cells come in a tick."""

    capacity: int  # a power of two
    prefill: int
    tick: int
    ample: int
    majority: float
    stall: float  # skipping more than this begins the count for a slip anew
    near: int  # a cell that comes with less is late
    good: int  # one that comes with as much makes up for one that is late, one with more for two
    surplus: float  # more late ones than this, beyond those, are a reason to hold
    plenty: float  # fewer late ones than those by more than this are a reason to skip
    anew: int  # a cell so far ahead, while nothing has gone out, says where to begin

    @classmethod
    def of(cls, per_tick: float) -> Sizes:
        """Sizes of a queue, all in cells."""
        tick = max(1, round(per_tick))
        # At a rate that is no whole number of cells a tick, some come a cell, or a tick, nearer to their turn
        # than most. As clocks drift, these must not be too late before so many are late that there is a slip.
        nearer = 0 if float(per_tick).is_integer() else min(per_tick, 1)
        prefill = max(1, ceil(PREFILL_TICKS * per_tick + nearer))
        ample = prefill + 2 * tick  # to skip at less would undo a hold by the next slip
        capacity = 1 << max(3, int(DEPTH_TICKS * per_tick + prefill).bit_length())
        cells = SLIP_SPACING * per_tick
        majority = surplus = cells / 2
        near, good, plenty, anew = prefill, _HALF, cells, ample
        if NEARLY < per_tick < 1:
            near, good, anew = 1, 2, prefill + tick
            surplus, plenty = cells * SURPLUS, cells * (1 + SURPLUS)
        stall = majority * LONG_STALL
        return cls(capacity, prefill, tick, ample, majority, stall, near, good, surplus, plenty, anew)


class ForwardQueue:
    """Ring of preallocated cells of one route and direction; sizes in cells."""

    __slots__ = ("_ample", "_anew", "_calm", "_caution", "_early", "_filled", "_fresh", "_good", "_late",
                 "_majority", "_mask", "_plenty", "_rows", "_stall", "_surplus", "_synced", "_tick", "_turn",
                 "_unsure", "missing", "near", "next", "prefill", "received", "slips")  # fmt: skip

    def __init__(self, fmt: Format, per_tick: float) -> None:
        (capacity, self.prefill, self._tick, self._ample, self._majority, self._stall, self.near,
         self._good, self._surplus, self._plenty, self._anew) = Sizes.of(per_tick)  # fmt: skip
        self._rows = rows(fmt, capacity)
        self._filled = [_EMPTY] * capacity
        self._mask = capacity - 1
        self._early = self._late = 0  # cells since the last turn; late: less those that make up for them
        self._turn = 0  # tick at which a slip is allowed
        self._calm = 0  # turns one after the other in which cells came with plenty
        self._caution = 1  # how many of them make a skip
        self._synced = False
        self._fresh = True  # nothing has gone out since it began, or began anew
        self._unsure = True  # nobody but the first cells said where to begin
        self.next = 0  # slot due next
        self.received = self.missing = self.slips = 0

    def start(self, next_slot: int) -> None:
        """Fix the next slot due before any cell has come (a hop that numbered its own cells so far)."""
        self.next = next_slot
        self._synced = True
        self._unsure = self._fresh = False

    def claim(self, slot: int) -> CellRow | None:
        """Return the row to write slot `slot` into, then `commit` it; None if late, a duplicate or absurd."""
        ahead = (slot - self.next) & SLOT_MASK
        if not self._synced or (self._unsure and ahead < _HALF and self._begins_anew(ahead)):
            self._synced = self._fresh = True
            self.next = (slot - self.prefill) & SLOT_MASK
            ahead = self.prefill
        if ahead < self.near or ahead >= _HALF:
            self._late += 1
        elif ahead >= self._good:
            self._late -= 1 + (ahead > self._good)
        if self._ample <= ahead < _HALF:
            self._early += 1
        if ahead > self._mask or self._filled[slot & self._mask] == slot:
            return None
        return self._rows[slot & self._mask]

    def _begins_anew(self, ahead: int) -> bool:
        return ahead >= self._anew if self._fresh else ahead > self._mask and self.received <= self._tick

    def commit(self, slot: int) -> None:
        """The claimed row of `slot` now holds its cell."""
        self._filled[slot & self._mask] = slot
        self.received += 1

    def take(self, tick: int) -> tuple[int, CellRow | None] | None:
        """Return the slot due and its row (None: absent, substitute it), or None to hold this tick."""
        if tick >= self._turn and self._synced:
            self._turn = tick + SLIP_SPACING
            if self._slip():
                return None
        slot = self.next
        index = slot & self._mask
        if self._filled[index] == slot:
            self._filled[index] = _EMPTY
            self._fresh = False
            self.next = (slot + 1) & SLOT_MASK
            return slot, self._rows[index]
        if not self._synced:
            return None
        self.missing += 1
        self._fresh = False
        self.next = (slot + 1) & SLOT_MASK
        return slot, None

    def skip(self, slots: int) -> None:
        """This node stood still for so many slots: they are not sent, and not sent later."""
        if self._synced and not self._fresh:  # else what came says, or will say, where to begin
            self.next = (self.next + slots) & SLOT_MASK
        if slots > self._stall:  # what piled up meanwhile seemed early, and was not
            self._late = self._early = 0

    def _slip(self) -> bool:
        """Make up for drift by one tick, if most cells since the last turn ask for it; True to hold."""
        late, early = self._late, self._early
        self._late = self._early = 0
        self._calm = self._calm + 1 if -late > self._plenty else 0
        skips = early > self._majority or self._calm >= self._caution
        if skips:
            self._calm = 0
            self.skip(self._tick)
        elif late > self._surplus:
            self._caution = min(CAUTION * self._caution, MOST_CAUTION)
        else:
            return False
        self.slips += 1
        return not skips
