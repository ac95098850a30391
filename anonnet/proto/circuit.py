"""A circuit in the data plane: packets in one end, cells' payloads out of the other, and back.

All routes of a circuit share its segmenter, each of their slots calling `fill`, so that data is striped over
them as slots come due; and its reassembler, which orders by the circuit's own sequence numbers and never
asks which route a cell took. Routes may come and go, and have different rates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from anonnet.proto.segment import Reassembler, Segmenter
from anonnet.spec import TUN_MTU, Format

QUEUE_NS: Final = 100_000_000  # packets wait at most about this long for their cells
QUEUE_LEAST: Final = 4 * TUN_MTU  # bytes
HOLD_NS: Final = 40_000_000  # how long a missing cell is waited for


class Circuit:
    """One end of a circuit. `deliver` takes whole packets; rates are in cells per second."""

    def __init__(
        self, handle: int, fmt: Format,
        prepare: Callable[[bytearray], bool], finish: Callable[[bytearray], bool],
        deliver: Callable[[bytearray], None],
    ) -> None:  # fmt: skip
        self.handle = handle
        self.format = fmt
        self.dropped = 0
        self._rates: dict[int, float] = {}
        self._segmenter = Segmenter(fmt.content_len, QUEUE_LEAST)
        self._reassembler = Reassembler(fmt.content_len, HOLD_NS, max_packet=TUN_MTU)
        self._prepare = prepare
        self._finish = finish
        self._deliver = deliver
        self.fill = self._segmenter.fill

    def resize(self, route: int, rate: float) -> None:
        """A route joins with so many outgoing cells per second, or leaves with 0: the queue follows."""
        self._rates[route] = rate
        if not rate:
            del self._rates[route]
        limit = int(sum(self._rates.values()) * self.format.content_len * QUEUE_NS / 1_000_000_000)
        self._segmenter.limit = max(limit, QUEUE_LEAST)

    def send(self, packet: bytearray) -> None:
        """A packet from the TUN, rewritten in place, to be cut into cells."""
        if not self._prepare(packet) or not self._segmenter.push(packet):
            self.dropped += 1

    def receive(self, payload: memoryview, now: int) -> None:
        """A DATA payload from the other end."""
        self._hand_over(self._reassembler.receive(payload, now))

    def on_deadline(self, now: int) -> None:
        """Give up waiting for cells that are overdue."""
        deadline = self._reassembler.next_deadline()
        if deadline is not None and deadline <= now:
            self._hand_over(self._reassembler.on_deadline(now))

    def _hand_over(self, packets: list[bytes]) -> None:
        for whole in packets:
            packet = bytearray(whole)
            if self._finish(packet):
                self._deliver(packet)
            else:
                self.dropped += 1
