"""Who gets the slots of a link's tick: lanes as they have earned, then control, then nulls.

A *lane* is a route's share of a link's slots in one direction. It earns credit by the clock, a fixed
amount each tick, and spends it on slots; a rate need not be a whole number of cells per tick, and links
of different ticks carry the same route. What no lane is owed goes to the control channel and to nulls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from anonnet.crypto.suite import Seal
from anonnet.proto.inbox import Outbox
from anonnet.proto.orders import RATE_UNIT
from anonnet.wire.cell import CellRow
from anonnet.wire.datagram import HEADER

# What a lane stays owed while others have the slots. On a link that is promised to 31/32, dozens of lanes
# whose spare cells fall together put the last one off by less; with one cell here it lost a tenth of its own.
MOST_OWED: Final = 4 * RATE_UNIT
_header: Final = HEADER.pack_into

Take = Callable[[int], CellRow | None]  # tick -> row, or None to leave the slot to others
Skip = Callable[[int], None]  # slots that were due while this node stood still


class Lane:
    """A route's claim on a link's outgoing slots."""

    __slots__ = ("credit", "per_tick", "route", "skip", "take")

    def __init__(self, route: int, rate: int, tick_ns: int, take: Take, skip: Skip) -> None:
        self.route = route
        self.per_tick = rate * tick_ns  # in RATE_UNIT-ths of a cell
        self.credit = 0
        self.take = take
        self.skip = skip


class Filler:
    """Fills a link's outbox with sealed cells, tick after tick, once it has been told what to seal them with.

    `control_cell` takes a frame from `control`, the control channel's, and makes a cell of it; `null` is for
    what nobody wants. The first `position` places of the next tick are others'.
    """

    __slots__ = (
        "_control",
        "_control_cell",
        "_counter",
        "_lanes",
        "_null",
        "_outbox",
        "_seal",
        "_start",
        "position",
    )

    def __init__(
        self, outbox: Outbox, lanes: Sequence[Lane], control: deque[bytes],
        control_cell: Callable[[], memoryview], null: memoryview,
    ) -> None:  # fmt: skip
        self.position = 0
        self._outbox = outbox
        self._lanes = lanes
        self._control = control
        self._control_cell = control_cell
        self._null = null
        self._seal: Seal | None = None
        self._start = self._counter = 0

    def use(self, seal: Seal, start: int) -> None:
        """Seal with a key that has sealed nothing yet; `start` opens every header, counters begin at 0."""
        self._seal, self._start, self._counter = seal, start, 0

    def stop(self) -> None:
        """Forget the key."""
        self._seal = None

    def fill(self, tick: int) -> None:
        """Seal a cell into each place that is left; ValueError without a key."""
        if self._seal is None:
            raise ValueError("no key to seal with")
        seal, outbox, position, counter = self._seal, self._outbox, self.position, self._counter
        sealed, nonces, count = outbox.sealed, outbox.nonces, outbox.count
        self._counter += count - position  # before they are used: none is used twice, whatever happens
        self.position = 0
        for lane in self._lanes:
            credit = lane.credit + lane.per_tick
            if credit < RATE_UNIT:
                lane.credit = credit
                continue
            due = min(credit // RATE_UNIT, count - position)
            lane.credit = min(credit - due * RATE_UNIT, MOST_OWED + lane.per_tick)
            for _ in range(due):
                row = lane.take(tick)
                if row is None:
                    break
                nonce = nonces[position]
                _header(nonce, 0, self._start, counter)
                seal(nonce, row.cell, None, sealed[position])
                counter += 1
                position += 1
        while position < count:
            nonce = nonces[position]
            _header(nonce, 0, self._start, counter)
            seal(nonce, self._control_cell() if self._control else self._null, None, sealed[position])
            counter += 1
            position += 1


def fill(fillers: Sequence[Filler], tick: int) -> None:
    """Fill the outboxes of all links of a beat."""
    for filler in fillers:
        filler.fill(tick)
