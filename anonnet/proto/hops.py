"""A route as the data plane of one node sees it: hop (relay or exit) or caller.

Both ends of the switch are here: `receive` takes an opened cell of one link, `take_*` yields the next cell
due on another. A slot number is renumbered at every hop, so that relays which are not neighbours cannot
compare them; each layer's tweak is the number on the hop's link towards the caller:

    caller --n1--> r1 --n1 + s1--> r2 --n1 + s1 + s2--> x1        forward, shifts from the hop handshakes
    caller <--n1-- r1 <--n1 + b1-- r2 <--n1 + b1 + b2-- x1        backward, shifts announced in EXTENDED
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from anonnet.crypto.onion import LayerKeys
from anonnet.crypto.replay import ReplayWindow
from anonnet.crypto.suite import OnionLayer, Suite
from anonnet.proto.circuit import Circuit
from anonnet.proto.health import Health
from anonnet.proto.orders import Joined, Reports, SignalSeen
from anonnet.proto.queue import ForwardQueue
from anonnet.spec import SLOT_MASK, Format, Kind
from anonnet.wire.cell import CELL_HEADER, PAYLOAD_HEADER, ZERO16, CellRow, rows

MAX_SIGNALS: Final = 256  # queued signalling frames of one route
_HALF: Final = 1 << 31


class SlotWindow:
    """Replay window and loss count over 32-bit slot numbers at the end of a route."""

    __slots__ = ("_highest", "_start", "_window", "received")

    def __init__(self) -> None:
        self._window = ReplayWindow()
        self._highest = -1
        self._start = 0
        self.received = 0

    def accept(self, slot: int) -> bool:
        """False for a slot seen before, or too old to tell."""
        if self._highest < 0:
            self._highest = self._start = (1 << 32) + slot
        ahead = (slot - self._highest) & SLOT_MASK
        extended = self._highest + (ahead if ahead < _HALF else ahead - (1 << 32))
        if not self._window.accept(extended):
            return False
        self._highest = max(self._highest, extended)
        self.received += 1
        return True

    @property
    def missing(self) -> int:
        """Slots below the highest seen that never came."""
        return max(0, self._highest - self._start + 1 - self.received) if self._highest >= 0 else 0


class Scratch:
    """One row in which a node writes cells of its own; used up (sealed) before the next is written."""

    def __init__(self, fmt: Format, random: Callable[[int], bytes]) -> None:
        self.row = rows(fmt, 1)[0]
        self._blank = bytes(fmt.body_len)
        self._body_len = fmt.body_len
        self._random = random

    def blank(self) -> CellRow:
        """A recognised body without content: a route null."""
        self.row.body[:] = self._blank
        return self.row

    def signal(self, frame: bytes) -> CellRow:
        """A recognised body with a signalling frame."""
        row = self.blank()
        row.set_payload_header(Kind.SIGNAL, 0, 0)
        row.content[: len(frame)] = frame
        return row

    def substitute(self) -> CellRow:
        """A body that nobody will recognise, like any other in transit."""
        self.row.body[:] = self._random(self._body_len)
        return self.row


class HopRoute:
    """A route through, or ending at, this node. Rates in cells per own tick of each link."""

    def __init__(
        self, handle: int, route_id: int, forward: LayerKeys, backward: LayerKeys, shift: int,
        fmt: Format, scratch: Scratch, first_slot: int, reports: Reports, suite: Suite,
    ) -> None:  # fmt: skip
        self.handle = handle
        self.route_id = route_id
        self.circuit: Circuit | None = None
        self.health: Health | None = None  # once the circuit uses the route
        self.rates = (0, 0)  # forward, backward; millicells per second
        self.signals: deque[bytes] = deque(maxlen=MAX_SIGNALS)
        self.window = SlotWindow()
        self.unrecognised = 0
        self._fmt = fmt
        self._forward = suite.layer(forward)
        self._backward = suite.layer(backward)
        self._shift = shift
        self._scratch = scratch
        self._reports = reports
        self._next = first_slot  # backward slot this hop numbers next, while nothing is beyond it
        self._onward_id = 0
        self._backward_shift = 0
        self.forward_queue: ForwardQueue | None = None
        self.backward_queue: ForwardQueue | None = None
        self._backward_per_tick = 0.0

    @property
    def queues(self) -> list[ForwardQueue]:
        """The queues that there are."""
        return [queue for queue in (self.forward_queue, self.backward_queue) if queue is not None]

    def extend(self, onward_id: int, forward_per_tick: float, backward_per_tick: float) -> None:
        """The route goes on beyond this hop; backward transit starts with the first cell from there."""
        self._onward_id = onward_id
        self.forward_queue = ForwardQueue(self._fmt, forward_per_tick)
        self._backward_per_tick = backward_per_tick
        self.backward_queue = None

    # -- forward ----------------------------------------------------------------------------------

    def receive_forward(self, slot: int, row: CellRow, now: int) -> None:
        """A cell from the caller's side: encipher; ours if it opens with zeros, else queue it."""
        queue = self.forward_queue
        if queue is None:
            if self.window.accept(slot):
                if self._forward.encipher(slot, row, row) == ZERO16:
                    self._recognised(row, now)
                else:
                    self.unrecognised += 1
            return
        target = queue.claim(slot)
        if target is None:
            return
        if self._forward.encipher(slot, row, target) == ZERO16:
            self._recognised(target, now)  # a substitute takes its place, so the next hop cannot tell
        else:
            queue.commit(slot)

    def _recognised(self, row: CellRow, now: int) -> None:
        if self.health is not None:
            self.health.heard(now)
        kind = row.payload[0] >> 4
        if kind >= Kind.DATA:
            if self.circuit is not None:
                self.circuit.receive(row.payload, now)
        elif kind == Kind.SIGNAL:
            self._reports.offer(SignalSeen(self.handle, 0, bytes(row.content)))

    def take_forward(self, tick: int) -> CellRow | None:
        """Next cell due on the link away from the caller."""
        assert self.forward_queue is not None
        item = self.forward_queue.take(tick)
        if item is None:
            return None
        slot, row = item
        if row is None:
            row = self._scratch.substitute()
        CELL_HEADER.pack_into(row.cell, 0, self._onward_id, (slot + self._shift) & SLOT_MASK)
        return row

    def skip_forward(self, slots: int) -> None:
        """This node stood still for so many slots."""
        assert self.forward_queue is not None
        self.forward_queue.skip(slots)

    # -- backward ---------------------------------------------------------------------------------

    def receive_backward(self, slot: int, row: CellRow, _now: int) -> None:
        """A cell from beyond this hop: encipher and queue it."""
        queue = self.backward_queue
        if queue is None:
            queue = self._join(slot)
        slot = (slot - self._backward_shift) & SLOT_MASK
        target = queue.claim(slot)
        if target is not None:
            self._backward.encipher(slot, row, target)
            queue.commit(slot)

    def _join(self, slot: int) -> ForwardQueue:
        """Number what comes from beyond so that it follows this hop's own cells without a seam."""
        queue = self.backward_queue = ForwardQueue(self._fmt, self._backward_per_tick)
        queue.start(self._next)
        self._backward_shift = (slot - self._next - queue.prefill) & SLOT_MASK
        self._reports.append(Joined(self.handle, self._backward_shift))
        return queue

    def take_backward(self, tick: int) -> CellRow | None:
        """Next cell due on the link towards the caller."""
        queue = self.backward_queue
        row: CellRow | None = None
        if queue is None:
            slot = self._next
            self._next = (slot + 1) & SLOT_MASK
        else:
            item = queue.take(tick)
            if item is None:
                return None
            slot, row = item
        if self.signals:
            row = self._own(slot, self._scratch.signal(self.signals.popleft()))
        elif row is None:
            if queue is not None:
                row = self._scratch.substitute()
            else:
                fresh = self._scratch.blank()
                if self.health is not None and self.health.well and self.circuit is not None:
                    self.circuit.fill(self.handle, fresh)
                row = self._own(slot, fresh)
        CELL_HEADER.pack_into(row.cell, 0, self.route_id, slot)
        return row

    def skip_backward(self, slots: int) -> None:
        """This node stood still for so many slots."""
        if self.backward_queue is not None:
            self.backward_queue.skip(slots)
        else:
            self._next = (self._next + slots) & SLOT_MASK

    def _own(self, slot: int, row: CellRow) -> CellRow:
        self._backward.encipher(slot, row, row)
        return row


class Hop(NamedTuple):
    """One hop as the caller knows it: layers, and offsets of its slot numbers from the first link's."""

    forward: OnionLayer
    backward: OnionLayer
    forward_offset: int
    backward_offset: int
    slot_shift: int


class CallerRoute:
    """A route that this node calls: every layer is deciphered here."""

    def __init__(self, handle: int, route_id: int, scratch: Scratch, first_slot: int,
                 reports: Reports, suite: Suite) -> None:  # fmt: skip
        self.handle = handle
        self.route_id = route_id
        self.hops: list[Hop] = []
        self.circuit: Circuit | None = None
        self.health: Health | None = None  # once the circuit uses the route
        self.rates = (0, 0)  # forward, backward; millicells per second
        self.signals: deque[tuple[int, bytes]] = deque(maxlen=MAX_SIGNALS)
        self.window = SlotWindow()
        self.unrecognised = 0
        self._scratch = scratch
        self._next = first_slot
        self._reports = reports
        self._layer = suite.layer

    @property
    def queues(self) -> list[ForwardQueue]:
        """None: the caller sends by its own clock and takes in what comes."""
        return []

    def add_hop(self, forward: LayerKeys, backward: LayerKeys, slot_shift: int, backward_shift: int) -> None:
        """The route has grown; `backward_shift` is what the hop before announced (0 for the first)."""
        forward_offset = backward_offset = 0
        if self.hops:
            last = self.hops[-1]
            forward_offset = (last.forward_offset + last.slot_shift) & SLOT_MASK
            backward_offset = (last.backward_offset + backward_shift) & SLOT_MASK
        layers = self._layer(forward), self._layer(backward)
        self.hops.append(Hop(*layers, forward_offset, backward_offset, slot_shift))

    def take_forward(self, _tick: int) -> CellRow:
        """Next cell due: signalling first, then data, else a route null to the last hop."""
        slot = self._next
        self._next = (slot + 1) & SLOT_MASK
        target = len(self.hops) - 1
        if self.signals:
            target, frame = self.signals.popleft()
            row = self._scratch.signal(frame)
        else:
            row = self._scratch.blank()
            if self.health is not None and self.health.well and self.circuit is not None:
                self.circuit.fill(self.handle, row)
        for hop in reversed(self.hops[: target + 1]):
            hop.forward.decipher((slot + hop.forward_offset) & SLOT_MASK, row)
        CELL_HEADER.pack_into(row.cell, 0, self.route_id, slot)
        return row

    def skip_forward(self, slots: int) -> None:
        """This node stood still for so many slots."""
        self._next = (self._next + slots) & SLOT_MASK

    def receive_backward(self, slot: int, row: CellRow, now: int) -> None:
        """Peel layers until a body opens with zeros: that hop wrote it."""
        if not self.window.accept(slot):
            return
        for index, hop in enumerate(self.hops):
            if hop.backward.decipher((slot + hop.backward_offset) & SLOT_MASK, row) == ZERO16:
                if self.health is not None:
                    self.health.heard(now)
                kind = PAYLOAD_HEADER.unpack_from(row.payload)[0] >> 12
                if kind == Kind.SIGNAL:
                    self._reports.offer(SignalSeen(self.handle, index, bytes(row.content)))
                elif kind >= Kind.DATA and self.circuit is not None and index == len(self.hops) - 1:
                    self.circuit.receive(row.payload, now)
                return
        self.unrecognised += 1
