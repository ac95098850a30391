"""Packets into cells and back (docs/protocol.md section 6).

Content of a DATA cell: the rest of a packet that began earlier, then packets back to back, each after its
length (u16). A length of 0, or fewer than 2 bytes left, ends the cell. The payload header's `first` says
where the first packet that starts in the cell does, so a lost cell costs only the packets that it held a
part of; its `sequence` counts the DATA cells of one direction of a circuit, whatever route each takes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from anonnet.spec import NO_FIRST, PARITY_HEAD_LEN, PAYLOAD_HEADER_LEN, SLOT_MASK, Kind
from anonnet.wire.cell import PAYLOAD_HEADER, CellRow

LENGTH_LEN: Final = 2
MAX_PACKET: Final = 0xFFFF
MAX_HELD: Final = 256  # cells
_HALF: Final = 1 << 31
_RECENT_GAPS: Final = 64


class Segmenter:
    """Cuts packets into the content of cells. One per circuit and direction.

    `take` hands over the next packet, of 1 to MAX_PACKET bytes, or None if none waits.
    """

    def __init__(self, content_len: int, take: Callable[[], bytes | bytearray | None]) -> None:
        self._content_len = content_len
        self._take = take
        self._head: bytes = b""  # the packet being sent, after its length, and how much of it has gone
        self._head_at = 0
        self._sequence = 0
        self._zeros = memoryview(bytes(content_len))

    def fill(self, row: CellRow, kind: Kind = Kind.DATA) -> bool:
        """Write the payload of one DATA or GROUPED cell; False, with the row untouched, if nothing waits."""
        head, at = self._head, self._head_at
        packet = self._take() if at == len(head) else None
        if at == len(head) and packet is None:
            return False
        content, size = row.content, self._content_len
        if kind is Kind.GROUPED:
            size -= PARITY_HEAD_LEN
            content[size:] = self._zeros[size:]
        first = NO_FIRST
        used = 0
        while True:
            if at == len(head):
                if packet is None and size - used >= LENGTH_LEN:
                    packet = self._take()
                if packet is None:
                    break
                head, at = len(packet).to_bytes(LENGTH_LEN, "big") + packet, 0
                packet = None
                if first == NO_FIRST:
                    first = used
            take = min(len(head) - at, size - used)
            content[used : used + take] = head[at : at + take]
            at += take
            used += take
            if used == size:
                break
        if used < size:  # rows are used again: what they held must not travel as padding
            content[used:] = self._zeros[used:]
        self._head, self._head_at = head, at
        row.set_payload_header(kind, first, self._sequence)
        self._sequence = (self._sequence + 1) & SLOT_MASK
        return True

    def pad(self, row: CellRow) -> None:
        """Write a GROUPED cell without packets: its group must be full though nothing waits."""
        row.content[:] = self._zeros
        row.set_payload_header(Kind.GROUPED, NO_FIRST, self._sequence)
        self._sequence = (self._sequence + 1) & SLOT_MASK


class Unpacker:
    """Takes packets out of payloads that come in order. `malformed` counts cells that contradict themselves.

    Packets longer than `max_packet` bytes are malformed.
    """

    def __init__(self, content_len: int, max_packet: int) -> None:
        self._content_len = content_len
        self._max_packet = max_packet
        self._parts = bytearray()  # of the packet that goes on in the next cell
        self._missing = 0  # how many bytes of it are still to come
        self.malformed = 0

    def drop(self) -> None:
        """Forget the packet that goes on: the next payload is missing."""
        self._parts = bytearray()
        self._missing = 0

    def take(self, payload: bytes | memoryview, packets: list[bytearray]) -> None:
        """Append the packets that end in a payload (header and content)."""
        data = bytes(payload)
        room = self._content_len
        if data[0] >> 4 == Kind.GROUPED:
            room -= PARITY_HEAD_LEN
        end = PAYLOAD_HEADER_LEN + room
        first = (data[0] << 8 | data[1]) & NO_FIRST
        if missing := self._missing:
            if first in (NO_FIRST, missing):
                self._parts += data[PAYLOAD_HEADER_LEN : min(end, PAYLOAD_HEADER_LEN + missing)]
                self._missing = max(0, missing - room)
                if not self._missing:
                    packets.append(self._parts)
                    self._parts = bytearray()
            else:
                self.malformed += 1
                self.drop()
        if first == NO_FIRST:
            return
        at = PAYLOAD_HEADER_LEN + first
        if at + LENGTH_LEN > end or not data[at] << 8 | data[at + 1]:
            self.malformed += 1
            return
        while at + LENGTH_LEN <= end:
            size = data[at] << 8 | data[at + 1]
            if not size:
                return
            if size > self._max_packet:
                self.malformed += 1
                return
            at += LENGTH_LEN
            stop = at + size
            if stop > end:
                self._parts = bytearray(data[at:end])
                self._missing = stop - end
                return
            packets.append(bytearray(data[at:stop]))
            at = stop


@dataclass(slots=True)
class Counts:
    """What became of cells that did not simply come in order."""

    lost: int = 0  # given up on
    late: int = 0  # came after they were given up on
    duplicate: int = 0
    malformed: int = 0  # cells that contradict themselves or the one before


class Reassembler:
    """Puts packets together again, in order. One per circuit and direction.

    A cell that comes before its turn is held until the missing ones are there, for at most `hold_ns`, and
    at most `max_held` are. The rest is as in `unpacker`.
    """

    def __init__(self, unpacker: Unpacker, hold_ns: int, max_held: int = MAX_HELD) -> None:
        self._unpacker = unpacker
        self.hold_ns = hold_ns
        self._max_held = max_held
        self._next = 0  # sequence number
        self._held: dict[int, tuple[int, bytes]] = {}  # sequence: came at, payload; oldest first
        self._gaps: deque[tuple[int, int]] = deque(maxlen=_RECENT_GAPS)  # given up on: first, how many
        self._counts = Counts()

    @property
    def counts(self) -> Counts:
        """What became of cells that did not simply come in order."""
        self._counts.malformed = self._unpacker.malformed
        return self._counts

    def receive(self, payload: memoryview, now: int) -> list[bytearray]:
        """Take in a DATA cell's payload (header and content); return the packets now ready, in order."""
        sequence = PAYLOAD_HEADER.unpack_from(payload)[1]
        packets: list[bytearray] = []
        if sequence == self._next:
            self._take(payload, packets)
            if self._held:
                self._take_held(packets)
                self._expire(now, packets)
            return packets
        if (sequence - self._next) & SLOT_MASK >= _HALF:
            if any((sequence - first) & SLOT_MASK < count for first, count in self._gaps):
                self._counts.late += 1
            else:
                self._counts.duplicate += 1
        elif sequence in self._held:
            self._counts.duplicate += 1
        else:
            self._held[sequence] = (now, bytes(payload))  # the row is used again
            if len(self._held) > self._max_held:
                self._skip_gap(packets)
        if self._held:
            self._expire(now, packets)
        return packets

    def on_deadline(self, now: int) -> list[bytearray]:
        """Give up on cells that have been missing for `hold_ns`; return the packets that waited."""
        packets: list[bytearray] = []
        self._expire(now, packets)
        return packets

    def next_deadline(self) -> int | None:
        """Return when (ns) `on_deadline` is due, if ever."""
        for came_at, _ in self._held.values():
            return came_at + self.hold_ns
        return None

    def _expire(self, now: int, packets: list[bytearray]) -> None:
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            self._skip_gap(packets)

    def _skip_gap(self, packets: list[bytearray]) -> None:
        """Go on with the first held cell, without those missing before it."""
        count = min((sequence - self._next) & SLOT_MASK for sequence in self._held)
        self._counts.lost += count
        self._gaps.append((self._next, count))
        self._next = (self._next + count) & SLOT_MASK
        self._unpacker.drop()
        self._take_held(packets)

    def _take_held(self, packets: list[bytearray]) -> None:
        while (held := self._held.pop(self._next, None)) is not None:
            self._take(held[1], packets)

    def _take(self, data: bytes | memoryview, packets: list[bytearray]) -> None:
        self._next = (self._next + 1) & SLOT_MASK
        self._unpacker.take(data, packets)
