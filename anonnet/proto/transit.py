"""One direction of a route at a relay: in from one link by slot number, out to another by the clock.

    datagram -> open -> Inlet: encipher -> ForwardQueue -> Outlet: renumber -> seal -> datagram

While there is no queue, the route ends here, and both leave their work to whoever it ends with, their
*owner*. It is handed to what they call, so that its class's functions will do: a bound method takes 64 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from anonnet.crypto.onion import OnionLayer
from anonnet.proto.queue import ForwardQueue
from anonnet.spec import SLOT_MASK
from anonnet.wire.cell import CELL_HEADER, ZERO16, CellRow

Receive = Callable[[int, CellRow, int], None]  # slot, row, now


class Inlet:
    """Where cells come in: `end(owner, slot, row, now)` takes them while the route ends here.

    `recognised(owner, row, now)` takes those that open with zeros, if any are meant to be.
    """

    __slots__ = ("_end", "_layer", "_owner", "_recognised", "queue", "shift")

    def __init__(
        self,
        layer: OnionLayer,
        owner: object,
        end: Callable[..., None],
        recognised: Callable[..., None] | None,
    ) -> None:
        self.queue: ForwardQueue | None = None
        self.shift = 0  # of the slot numbers that come in
        self._layer = layer
        self._owner = owner
        self._end = end
        self._recognised = recognised

    def __call__(self, slot: int, row: CellRow, now: int) -> None:
        """Take in a cell; its row is free for others afterwards."""
        queue = self.queue
        if queue is None:
            self._end(self._owner, slot, row, now)
            return
        slot = (slot - self.shift) & SLOT_MASK
        target = queue.claim(slot)
        if target is None:
            return
        left = self._layer.encipher(slot, row, target)
        if self._recognised is not None and left == ZERO16:
            # A substitute takes its place, so the next hop cannot tell.
            self._recognised(self._owner, target, now)
        else:
            queue.commit(slot)


class Outlet:
    """Where cells go out: those of `end(owner, tick)`, while the route ends here.

    Signals that wait are sent in the place of cells: `own(owner, slot)` makes one of the next.
    """

    __slots__ = ("_end", "_own", "_owner", "_shift", "_signals", "_substitute", "queue", "route_id")

    def __init__(
        self, route_id: int, shift: int, substitute: Callable[[], CellRow], owner: object,
        end: Callable[..., CellRow | None], signals: Sequence[bytes], own: Callable[..., CellRow],
    ) -> None:  # fmt: skip
        self.queue: ForwardQueue | None = None
        self.route_id = route_id
        self._shift = shift  # of the slot numbers that go out
        self._substitute = substitute
        self._owner = owner
        self._end = end
        self._signals = signals
        self._own = own

    def __call__(self, tick: int) -> CellRow | None:
        """Return the next cell due, if one is."""
        queue = self.queue
        if queue is None:
            return self._end(self._owner, tick)
        item = queue.take(tick)
        if item is None:
            return None
        slot, row = item
        if self._signals:
            row = self._own(self._owner, slot)
        elif row is None:
            row = self._substitute()
        CELL_HEADER.pack_into(row.cell, 0, self.route_id, (slot + self._shift) & SLOT_MASK)
        return row
