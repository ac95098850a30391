"""The packets that wait at a circuit's end for their cells: flows take turns, and none may wait for long.

A download fills whatever queue it finds, and a key press behind it waits for all of that. So each flow has a
queue of its own, they take turns by bytes, one that had nothing waiting goes first (FQ-CoDel, RFC 8290), and
a flow whose packets keep waiting longer than a short while loses one from time to time, which TCP understands
(CoDel, RFC 8289). Segments that wait one behind another are joined (proto.train), so that there is one
header for all. None of it can be seen on a wire: the slots go out all the same.

    push --> flow --.                        new: had nothing waiting; goes first, once
             flow --+-- new, then old --> pop --> cells
             flow --'                        old: in turn, QUANTUM bytes each
"""

from __future__ import annotations

from collections import deque
from math import sqrt
from typing import Final
from zlib import crc32

from anonnet.proto.rewrite import HEAD6, TCP, UDP
from anonnet.proto.train import Join, cut, join, segment_of, tcp_at
from anonnet.spec import MAX_TRAIN, TUN_MTU

# Longer than RFC 8289's 5 and 100 ms. Who else waits does not depend on it, since flows take turns. A round
# trip through a circuit may take several hundred ms; and BBR, which many servers use, keeps a queue of about
# one, whatever it loses, and each loss costs its reader one: with 20 ms more on each link, it lost some all
# the time at 70 ms, and with them a fifth of its goodput.
TARGET_NS: Final = 150_000_000  # a queue that does not come below it ...
INTERVAL_NS: Final = 500_000_000  # ... for so long is not a burst
LIMIT_NS: Final = 500_000_000  # nor does all that waits come to more than this
LEAST_LIMIT: Final = 8 * TUN_MTU  # bytes
QUANTUM: Final = TUN_MTU
TRAIN_NS: Final = 3_000_000  # longest time that a train takes others' turns
BUCKETS: Final = 256  # flows that meet in one share its turns
PART: Final = 32  # of the fullest flow's packets, one in so many is dropped when all is full
_FRAGMENT: Final = 0x3FFF  # more fragments, or an offset
_WITH_PORTS: Final = (bytes([TCP]), bytes([UDP]))
_SECOND: Final = 1_000_000_000


class Flow:
    """One flow's packets and the state of its CoDel, named as in RFC 8289 (section 5)."""

    __slots__ = ("count", "deficit", "drop_next", "dropping", "first_above", "last_count", "packets",
                 "queued", "size")  # fmt: skip

    def __init__(self) -> None:
        self.packets: deque[tuple[int, bytearray]] = deque()  # came at, packet
        self.size = 0  # bytes
        self.queued = False  # in `new` or `old`
        self.deficit = 0
        self.first_above = 0
        self.drop_next = 0
        self.count = self.last_count = 0
        self.dropping = False


class Waiting:
    """The queue of one end of a circuit. `now` is monotonic ns, as exact as the beat of the links."""

    def __init__(self, join: Join = join) -> None:
        self.now = 0
        self._join = join
        self.backlog = 0  # bytes
        self.dropped = 0  # packets
        self._limit = LEAST_LIMIT
        self._target = TARGET_NS
        self._interval = INTERVAL_NS
        self._train = TUN_MTU  # bytes of the longest train
        self._flows: dict[int, Flow] = {}
        self._new: deque[Flow] = deque()
        self._old: deque[Flow] = deque()

    def pace(self, rate: float) -> None:
        """So many bytes go out each second: on slow links three packets alone take longer than the target."""
        if rate > 0:
            self._target = max(TARGET_NS, int(3 * TUN_MTU * _SECOND / rate))
            self._interval = max(INTERVAL_NS, 2 * self._target)
        self._limit = max(int(rate * LIMIT_NS / _SECOND), LEAST_LIMIT)
        self._train = min(int(rate * TRAIN_NS / _SECOND), MAX_TRAIN)

    def push(self, packet: bytearray) -> None:
        """Queue a packet or train, now this queue's; when all is full, the flow that has most pays for it."""
        if len(packet) <= max(self._train, TUN_MTU):
            self._push(packet)
        else:
            for piece in cut(packet, segment_of(packet, tcp_at(packet)), self._train):
                self._push(piece)

    def _push(self, packet: bytearray) -> None:
        bucket = _bucket(packet)
        flow = self._flows.get(bucket)
        if flow is None:
            flow = self._flows[bucket] = Flow()
        last = flow.packets[-1][1] if flow.packets else packet
        size = len(last)
        if last is not packet and self._join(last, packet, self._train):
            gained = len(last) - size
        else:
            flow.packets.append((self.now, packet))
            gained = len(packet)
        flow.size += gained
        self.backlog += gained
        if not flow.queued:
            flow.queued = True
            flow.deficit = QUANTUM
            self._new.append(flow)
        if self.backlog > self._limit:
            self._relieve()

    def pop(self) -> bytearray | None:
        """Take the packet whose turn it is; None if nothing waits."""
        new, old = self._new, self._old
        while new or old:
            turns = new or old
            flow = turns[0]
            if flow.deficit <= 0:
                flow.deficit += QUANTUM
                turns.popleft()
                old.append(flow)
                continue
            packet = self._next(flow)
            if packet is not None:
                flow.deficit -= len(packet)
                return packet
            turns.popleft()
            if turns is new and old:  # else a flow could go first again and again by coming and going
                old.append(flow)
            else:
                flow.queued = False
        return None

    def _relieve(self) -> None:
        """Drop the oldest of the flow that has most: a few, or each packet of a flood would look for it."""
        flow = max(self._flows.values(), key=lambda one: one.size)
        for _ in range(1 + len(flow.packets) // PART):
            self._take(flow)
            self.dropped += 1

    def _take(self, flow: Flow) -> tuple[int, bytearray]:
        came_at, packet = flow.packets.popleft()
        flow.size -= len(packet)
        self.backlog -= len(packet)
        return came_at, packet

    # -- CoDel, RFC 8289 section 5 ----------------------------------------------------------------

    def _next(self, flow: Flow) -> bytearray | None:
        packet, late = self._look(flow)
        if flow.dropping:
            flow.dropping = late
            while flow.dropping and self.now >= flow.drop_next:
                self.dropped += 1
                flow.count += 1
                packet, flow.dropping = self._look(flow)
                flow.drop_next += self._spacing(flow.count)
        elif late:
            self.dropped += 1
            packet, _ = self._look(flow)
            flow.dropping = True
            # Queues that were late a moment ago are dropped from at the pace at which that was mended.
            recent = self.now - flow.drop_next < 16 * self._interval
            flow.count = max(1, flow.count - flow.last_count) if recent else 1
            flow.last_count = flow.count
            flow.drop_next = self.now + self._spacing(flow.count)
        return packet

    def _look(self, flow: Flow) -> tuple[bytearray | None, bool]:
        """Take a flow's next packet; tell whether its packets have been waiting too long for too long."""
        if not flow.packets:
            flow.first_above = 0
            return None, False
        came_at, packet = self._take(flow)
        if self.now - came_at < self._target or flow.size <= TUN_MTU:
            flow.first_above = 0
            return packet, False
        if not flow.first_above:
            flow.first_above = self.now + self._interval
            return packet, False
        return packet, self.now >= flow.first_above

    def _spacing(self, count: int) -> int:
        return int(self._interval / sqrt(count))


def _bucket(packet: bytes | bytearray) -> int:
    """Which queue: by addresses, protocol and ports; pieces of a packet have no ports."""
    if packet[0] >> 4 == 4:
        flow, protocol, at = packet[12:20], packet[9:10], (packet[0] & 15) * 4
        whole = not int.from_bytes(packet[6:8], "big") & _FRAGMENT
    else:
        flow, protocol, at, whole = packet[8:40], packet[6:7], HEAD6.size, True
    if whole and protocol in _WITH_PORTS:
        flow += packet[at : at + 4]
    return crc32(protocol + flow) % BUCKETS
