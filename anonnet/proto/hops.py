"""A route as the data plane of one node sees it: hop (relay or exit) or caller.

Both ends of the switch are here: `*_in` takes an opened cell of one link, `*_out` yields the next cell
due on another (proto.transit). A slot number is renumbered at every hop, so that relays which are not
neighbours cannot compare them; each layer's tweak is the number on the hop's link towards the caller:

    caller --n1--> r1 --n1 + s1--> r2 --n1 + s1 + s2--> x1        forward, shifts from the hop handshakes
    caller <--n1-- r1 <--n1 + b1-- r2 <--n1 + b1 + b2-- x1        backward, shifts announced in EXTENDED
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from anonnet.crypto.onion import LayerKeys
from anonnet.proto.beginning import Beginning
from anonnet.proto.circuit import Circuit
from anonnet.proto.engine import Engine
from anonnet.proto.health import Health
from anonnet.proto.orders import Joined, Reports, SignalSeen
from anonnet.proto.queue import ForwardQueue
from anonnet.proto.window import SlotWindow
from anonnet.spec import SLOT_MASK, Format, Kind
from anonnet.wire.cell import CELL_HEADER, PAYLOAD_HEADER, ZERO16, CellRow, rows

MAX_SIGNALS: Final = 256  # queued signalling frames of one route
_NO_SIGNALS: Final = ()  # towards what is beyond a hop


class Scratch:
    """One row in which a node writes cells of its own; used up (sealed) before the next is written."""

    def __init__(self, fmt: Format, random: Callable[[int], bytes]) -> None:
        self.row = rows(fmt, 1)[0]
        self.substitute: Final = self._substitute  # one for all routes: each bound method takes 64 bytes
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

    def _substitute(self) -> CellRow:
        """A body that nobody will recognise, like any other in transit."""
        self.row.body[:] = self._random(self._body_len)
        return self.row


class HopRoute:
    """A route through, or ending at, this node. Rates in cells per own tick of each link.

    A relay has thousands, and most go on beyond it: what only an end needs is gone by then.
    """

    __slots__ = (
        "_backward",
        "_beginning",
        "_came",
        "_engine",
        "_fmt",
        "_forward",
        "_missed",
        "_next",
        "_reports",
        "_route_id",
        "_scratch",
        "_window",
        "backward_in",
        "backward_out",
        "circuit",
        "forward_in",
        "forward_out",
        "handle",
        "health",
        "rates",
        "signals",
    )

    def __init__(
        self, handle: int, route_id: int, forward: LayerKeys, backward: LayerKeys, shift: int,
        fmt: Format, scratch: Scratch, first_slot: int, reports: Reports, engine: Engine,
    ) -> None:  # fmt: skip
        self.handle = handle
        self.circuit: Circuit | None = None
        self.health: Health | None = None  # once the circuit uses the route
        self.rates = (0, 0)  # forward, backward; millicells per second
        self.signals: list[bytes] = []  # to send; a deque takes 700 bytes while it is empty
        self._came = self._missed = 0  # cells; but for those that queues, and the window, count
        self._window: SlotWindow | None = engine.slot_window()  # while the route ends here
        self._fmt = fmt
        self._forward = engine.layer(forward)
        self._backward = engine.layer(backward)
        self._scratch = scratch
        self._reports = reports
        self._engine = engine
        self._route_id = route_id
        self._next = first_slot  # backward slot this hop numbers next, while nothing is beyond it
        self._beginning: Beginning | None = None  # of what comes from beyond
        self.forward_in = engine.inlet(self._forward, self, HopRoute._receive, HopRoute._recognised)
        self.forward_out = engine.outlet(
            0, shift, scratch.substitute, self, _nothing, _NO_SIGNALS, HopRoute._signal
        )
        self.backward_in = engine.inlet(self._backward, self, HopRoute._join, None)
        self.backward_out = engine.outlet(
            route_id, 0, scratch.substitute, self, HopRoute._originate, self.signals, HopRoute._signal
        )

    @property
    def forward_queue(self) -> ForwardQueue | None:
        """What goes on beyond this hop."""
        return self.forward_in.queue

    @property
    def backward_queue(self) -> ForwardQueue | None:
        """What has come from beyond this hop."""
        return self.backward_in.queue

    @property
    def queues(self) -> list[ForwardQueue]:
        """The queues that there are."""
        return [queue for queue in (self.forward_queue, self.backward_queue) if queue is not None]

    @property
    def received(self) -> int:
        """Cells that came, from both sides."""
        here = self._came + (self._window.received if self._window is not None else 0)
        return here + sum(queue.received for queue in self.queues)

    @property
    def missing(self) -> int:
        """Cells that did not come, or that nobody recognised where the route ended."""
        here = self._missed + (self._window.missing if self._window is not None else 0)
        return here + sum(queue.missing for queue in self.queues)

    def extend(self, onward_id: int, forward_per_tick: float, backward_per_tick: float, tick_ns: int) -> None:
        """The route goes on beyond this hop; backward transit starts when cells come from there steadily."""
        self.forward_out.route_id = onward_id
        self.forward_in.queue = self.forward_out.queue = self._engine.queue(self._fmt, forward_per_tick)
        self._beginning = Beginning(backward_per_tick, tick_ns)
        self.backward_in.queue = self.backward_out.queue = None
        if self._window is not None:
            self._came += self._window.received
            self._missed += self._window.missing
            self._window = None

    def close(self) -> None:
        """Let go of what points back here: no garbage is collected in a data plane, and keys must go."""
        del self.forward_in, self.forward_out, self.backward_in, self.backward_out

    # -- forward ----------------------------------------------------------------------------------

    def _receive(self, slot: int, row: CellRow, now: int) -> None:
        """A cell from the caller's side, while the route ends here: ours if it opens with zeros."""
        if self._window is not None and self._window.accept(slot):
            if self._forward.encipher(slot, row, row) == ZERO16:
                self._recognised(row, now)
            else:
                self._missed += 1

    def _recognised(self, row: CellRow, now: int) -> None:
        if self.health is not None:
            self.health.heard(now)
        kind = row.payload[0] >> 4
        if kind >= Kind.DATA:
            if self.circuit is not None:
                self.circuit.receive(row.payload, now)
        elif kind == Kind.SIGNAL:
            self._reports.offer(SignalSeen(self.handle, 0, bytes(row.content)))

    def skip_forward(self, slots: int) -> None:
        """This node stood still for so many slots."""
        assert self.forward_queue is not None
        self.forward_queue.skip(slots)

    # -- backward ---------------------------------------------------------------------------------

    def _join(self, slot: int, row: CellRow, now: int) -> None:
        """A first cell from beyond: number them so that they follow this hop's own without a seam."""
        beginning = self._beginning
        if beginning is None or not beginning.steady(slot, now):
            return
        self._beginning = None
        queue = self._engine.queue(self._fmt, beginning.per_tick)
        queue.start(self._next)
        # The sender's first cell comes as its lane begins, when cells come nearest to their turn.
        shift = (slot - self._next - queue.near) & SLOT_MASK
        self.backward_in.queue = self.backward_out.queue = queue
        self.backward_in.shift = shift
        self._reports.append(Joined(self.handle, shift))
        self.backward_in(slot, row, now)

    def _originate(self, _tick: int) -> CellRow:
        """Next cell due on the link towards the caller, while nothing is beyond: signalling, data, null."""
        slot = self._next
        self._next = (slot + 1) & SLOT_MASK
        if self.signals:
            row = self._signal(slot)
        else:
            row = self._scratch.blank()
            if self.health is not None and self.health.well and self.circuit is not None:
                self.circuit.fill(self.handle, row)
            self._backward.encipher(slot, row, row)
        CELL_HEADER.pack_into(row.cell, 0, self._route_id, slot)
        return row

    def _signal(self, slot: int) -> CellRow:
        row = self._scratch.signal(self.signals.pop(0))
        self._backward.encipher(slot, row, row)
        return row

    def skip_backward(self, slots: int) -> None:
        """This node stood still for so many slots."""
        if self.backward_queue is not None:
            self.backward_queue.skip(slots)
        else:
            self._next = (self._next + slots) & SLOT_MASK


def _nothing(_route: HopRoute, _tick: int) -> None:
    """No cell: the route does not go on."""


class Hop(NamedTuple):
    """One hop as the caller knows it: offsets of its slot numbers from the first link's."""

    forward_offset: int
    backward_offset: int
    slot_shift: int


class CallerRoute:
    """A route that this node calls: every layer is deciphered here."""

    def __init__(self, handle: int, route_id: int, scratch: Scratch, first_slot: int,
                 reports: Reports, engine: Engine) -> None:  # fmt: skip
        self.handle = handle
        self.hops: list[Hop] = []
        self.circuit: Circuit | None = None
        self.health: Health | None = None  # once the circuit uses the route
        self.rates = (0, 0)  # forward, backward; millicells per second
        self.signals: list[tuple[int, bytes]] = []  # to which hop, what
        self.window = engine.slot_window()
        self.unrecognised = 0
        self._engine = engine
        self._forward = engine.onion()
        self._backward = engine.onion()
        self._route_id = route_id
        self._scratch = scratch
        self._next = first_slot
        self._reports = reports

    @property
    def queues(self) -> list[ForwardQueue]:
        """None: the caller sends by its own clock and takes in what comes."""
        return []

    @property
    def received(self) -> int:
        """Cells that came."""
        return self.window.received

    @property
    def missing(self) -> int:
        """Cells that did not come, or that no hop wrote."""
        return self.window.missing + self.unrecognised

    def close(self) -> None:
        """Nothing points back here."""

    def add_hop(self, forward: LayerKeys, backward: LayerKeys, slot_shift: int, backward_shift: int) -> None:
        """The route has grown; `backward_shift` is what the hop before announced (0 for the first)."""
        forward_offset = backward_offset = 0
        if self.hops:
            last = self.hops[-1]
            forward_offset = (last.forward_offset + last.slot_shift) & SLOT_MASK
            backward_offset = (last.backward_offset + backward_shift) & SLOT_MASK
        self.hops.append(Hop(forward_offset, backward_offset, slot_shift))
        self._forward.add(self._engine.layer(forward), forward_offset)
        self._backward.add(self._engine.layer(backward), backward_offset)

    def forward_out(self, _tick: int) -> CellRow:
        """Next cell due: signalling first, then data, else a route null to the last hop."""
        slot = self._next
        self._next = (slot + 1) & SLOT_MASK
        hops = len(self.hops)
        if self.signals:
            target, frame = self.signals.pop(0)
            hops = target + 1
            row = self._scratch.signal(frame)
        else:
            row = self._scratch.blank()
            if self.health is not None and self.health.well and self.circuit is not None:
                self.circuit.fill(self.handle, row)
        self._forward.wrap(hops, slot, row)
        CELL_HEADER.pack_into(row.cell, 0, self._route_id, slot)
        return row

    def skip_forward(self, slots: int) -> None:
        """This node stood still for so many slots."""
        self._next = (self._next + slots) & SLOT_MASK

    def backward_in(self, slot: int, row: CellRow, now: int) -> None:
        """Peel layers until a body opens with zeros: that hop wrote it."""
        if not self.window.accept(slot):
            return
        hop = self._backward.peel(slot, row)
        if hop < 0:
            self.unrecognised += 1
            return
        if self.health is not None:
            self.health.heard(now)
        kind = PAYLOAD_HEADER.unpack_from(row.payload)[0] >> 12
        if kind == Kind.SIGNAL:
            self._reports.offer(SignalSeen(self.handle, hop, bytes(row.content)))
        elif kind >= Kind.DATA and self.circuit is not None and hop == len(self.hops) - 1:
            self.circuit.receive(row.payload, now)
