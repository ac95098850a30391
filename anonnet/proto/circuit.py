"""A circuit in the data plane: packets in one end, cells' payloads out of the other, and back.

All routes of a circuit share its segmenter; each of their slots calls `fill`, and proto.redundancy decides
which cell it gets. They share its reassembler too, which orders by the circuit's own sequence numbers and
never asks which route a cell took. Routes may come and go, and have different rates.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from anonnet.proto.redundancy import STRIPE, Coded, Mirror, Recovery, Redundancy, Sender, Stripe
from anonnet.proto.segment import MAX_PACKET, Reassembler
from anonnet.proto.train import sound
from anonnet.proto.waiting import Waiting
from anonnet.spec import MAX_TRAIN, TUN_MTU, Format, Kind
from anonnet.wire.cell import CellRow

if TYPE_CHECKING:
    from anonnet.proto.engine import Engine

HOLD_NS: Final = 40_000_000  # how long a missing cell is waited for ...
HOLD_CELLS: Final = 4  # ... and for so many cells' time of the slowest route more if there are several
_SECOND: Final = 1_000_000_000


class Circuit:
    """One end of a circuit. `deliver` takes whole packets; rates are in cells per second."""

    def __init__(
        self, handle: int, fmt: Format, engine: Engine,
        prepare: Callable[[bytearray], bool], finish: Callable[[bytearray], bool],
        deliver: Callable[[bytearray], None],
    ) -> None:  # fmt: skip
        self.handle = handle
        self.format = fmt
        self._rejected = 0
        self._rates: dict[int, float] = {}
        self._incoming: dict[int, float] = {}
        self._waiting = Waiting(engine.join)
        self._segmenter = engine.segmenter(fmt.content_len, self._waiting.pop)
        self._reassembler = Reassembler(engine.unpacker(fmt.content_len, MAX_TRAIN), HOLD_NS)
        self._prepare = prepare
        self._finish = finish
        self._deliver = deliver
        self._recovery = Recovery()
        self._redundancy = STRIPE
        self._sender: Sender = Stripe(self._segmenter)
        self._left: deque[bytes] = deque()  # by a former sender

    def arrange(self, redundancy: Redundancy) -> None:
        """Send by another mode from the next cell on; nothing that waits is lost."""
        if redundancy == self._redundancy:
            return
        self._left.extend(self._sender.unsent())
        self._redundancy = redundancy
        if redundancy.shares == 0:
            self._sender = Stripe(self._segmenter)
        elif redundancy.shares == 1:
            self._sender = Mirror(self._segmenter)
        else:
            self._sender = Coded(self._segmenter, redundancy.shares)
        self._sender.routes(dict(sorted(self._rates.items())))

    def fill(self, route: int, row: CellRow) -> bool:
        """Write what a route should carry next; False, with the row untouched, if nothing."""
        if self._left:
            row.payload[:] = self._left.popleft()
            return True
        return self._sender.fill(route, row)

    def resize(self, route: int, rate: float) -> None:
        """A route joins with so many outgoing cells per second, or leaves with 0: the queue follows."""
        self._rates[route] = rate
        if not rate:
            del self._rates[route]
        self._sender.routes(dict(sorted(self._rates.items())))
        self._waiting.pace(sum(self._rates.values()) * self.format.content_len)

    @property
    def dropped(self) -> int:
        """Packets that came to nothing, either way."""
        return self._rejected + self._waiting.dropped

    def expect(self, route: int, rate: float) -> None:
        """So many cells per second come over a route from now on; none with 0.

        Each relay holds about one cell of a slow route, more or less as its clock has it, so that two routes,
        also of one rate, bring their cells some cells' time apart.
        """
        self._incoming[route] = rate
        if not rate:
            del self._incoming[route]
        slowest = min(self._incoming.values()) if len(self._incoming) > 1 else 0
        apart = HOLD_CELLS * _SECOND / slowest if slowest else 0
        self._reassembler.hold_ns = HOLD_NS + int(apart)

    def leave(self, route: int) -> None:
        """A route that still works gets no more data; what was meant for it goes over the others."""
        self._left.extend(self._sender.unsent(route))
        self.resize(route, 0)

    def send(self, packet: bytearray) -> None:
        """A packet or train from the TUN, rewritten in place and now the circuit's, to be cut into cells."""
        if 0 < len(packet) <= MAX_PACKET and self._prepare(packet):
            self._waiting.push(packet)
        else:
            self._rejected += 1

    def receive(self, payload: memoryview, now: int) -> None:
        """A DATA, GROUPED or PARITY payload from the other end."""
        if payload[0] >> 4 == Kind.PARITY:
            found = self._recovery.on_parity(payload)
        else:
            self._hand_over(self._reassembler.receive(payload, now))
            found = self._recovery.on_data(payload)
        for recovered in found:
            self._hand_over(self._reassembler.receive(memoryview(recovered), now))

    def on_deadline(self, now: int) -> None:
        """Give up waiting for cells that are overdue. It is also how the circuit learns what time it is."""
        self._waiting.now = now
        deadline = self._reassembler.next_deadline()
        if deadline is not None and deadline <= now:
            self._hand_over(self._reassembler.on_deadline(now))

    def _hand_over(self, packets: list[bytearray]) -> None:
        for packet in packets:
            if (len(packet) <= TUN_MTU or sound(packet)) and self._finish(packet):
                self._deliver(packet)
            else:
                self._rejected += 1
