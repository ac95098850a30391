"""A reliable, ordered channel of messages over cells that may be lost, reordered or doubled.

Used in link control cells and in SIGNAL payloads alike (docs/protocol.md section 4.1). Its frames take slots
that are there anyway, at a rate that is fixed, so there is no congestion to control: the window bounds
memory, and the caller's `limit` is the pace.

Loss is found in two ways, each by the order of *transmissions*, so that a retransmitted frame is judged by
its last copy: three frames sent later have been acknowledged (RFC 6675's DupThresh), or the time-out of
RFC 6298 has passed. Round trips are measured on frames that were sent once only (Karn's rule).

Drive it so: after `send`, `receive` and at `next_deadline()`, take `poll_transmit(now, limit)`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from anonnet.errors import Malformed, PeerFault
from anonnet.proto.orders import RATE_UNIT
from anonnet.wire.stream import (
    FRAME_HEADER_LEN,
    MAX_MESSAGE,
    SACK_BITS,
    SEQUENCE_MASK,
    WINDOW,
    Frame,
    decode,
    encode,
)

MS: Final = 1_000_000
INITIAL_RTO_NS: Final = 1_000 * MS  # or this many times the round trip that is to be expected, if less
EXPECTED_TIMES: Final = 3  # as RFC 6298 takes its first measurement
QUESTION_CELLS: Final = 8  # of a route, that a question or an answer of its set-up has at the most
MIN_RTO_NS: Final = 100 * MS  # RFC 6298 says one second, for networks that are shared and congested
MAX_RTO_NS: Final = 8_000 * MS
ACK_DELAY_NS: Final = 20 * MS  # well below the smallest time-out
ACK_EVERY: Final = 2  # in-order frames that one delayed acknowledgement may cover (RFC 5681)
REORDER_LIMIT: Final = 3
MAX_QUEUE: Final = 256 * 1024  # bytes sent by the user and not yet acknowledged
MAX_FRAGMENTS: Final = 2048  # of them waiting for their first turn: small messages cost more than their bytes


class StreamFull(PeerFault):
    """The peer acknowledges so slowly that `MAX_QUEUE` bytes, or `MAX_FRAGMENTS`, wait for it."""


class RoundTrip:
    """The retransmission time-out of RFC 6298, in nanoseconds."""

    __slots__ = ("_backoff", "_srtt", "_var")

    def __init__(self) -> None:
        self._srtt = 0
        self._var = INITIAL_RTO_NS // 4
        self._backoff = 0

    @property
    def rto(self) -> int:
        """How long to wait for an acknowledgement before sending again."""
        base = max(MIN_RTO_NS, self._srtt + 4 * self._var)
        return min(MAX_RTO_NS, base << self._backoff)

    def expect(self, rtt: int) -> None:
        """Take in about what is to be expected, if nothing is measured yet."""
        if not self._srtt:
            self._var = min(INITIAL_RTO_NS, EXPECTED_TIMES * rtt) // 4

    def sample(self, rtt: int) -> None:
        """Take in a measured round trip, which also ends any back-off."""
        if self._srtt:
            self._var += (abs(self._srtt - rtt) - self._var) // 4
            self._srtt += (rtt - self._srtt) // 8
        else:
            self._srtt, self._var = rtt, rtt // 2
        self._backoff = 0

    def back_off(self) -> None:
        """Double the time-out, up to its cap."""
        if self.rto < MAX_RTO_NS:
            self._backoff += 1


@dataclass(slots=True)
class _Sent:
    """A fragment that has been transmitted at least once."""

    data: bytes
    last: bool
    sent_at: int = 0
    order: int = 0  # place of its last transmission among all transmissions
    copies: int = 0
    passed_by: int = 0  # frames transmitted later than this and acknowledged
    acked: bool = False
    lost: bool = False

    @property
    def in_flight(self) -> bool:
        return not (self.acked or self.lost)


class Stream:
    """One end of the channel. `frame_len` is what a frame may fill of a cell, in bytes."""

    def __init__(self, frame_len: int) -> None:
        if frame_len <= FRAME_HEADER_LEN:
            raise ValueError(f"no room for data in a frame of {frame_len} bytes")
        self._room = frame_len - FRAME_HEADER_LEN
        self._round_trip = RoundTrip()

        self._queue: deque[tuple[bytes, bool]] = deque()  # fragments not sent yet: data, last
        self._sent: deque[_Sent] = deque()  # sequence numbers from _base on
        self._base = 0
        self._backlog = 0
        self._transmissions = 0
        self._waiting_since = 0  # last progress of the peer while something is outstanding

        self._expected = 0
        self._early: dict[int, Frame] = {}  # came before their turn
        self._parts: list[bytes] = []  # of the message that is coming in
        self._unacked_frames = 0
        self._ack_at: int | None = None

    def expect(self, took: int, rate: int) -> None:
        """Say what a step of the set-up took (ns), and the route's rate (millicells per second)."""
        self._round_trip.expect(took + QUESTION_CELLS * RATE_UNIT // max(1, rate))

    @property
    def backlog(self) -> int:
        """Bytes of messages that the peer has not acknowledged, sent or not."""
        return self._backlog

    def unacked_for(self, now: int) -> int:
        """Return how long, in ns, the peer has acknowledged nothing though something was due; else 0."""
        return now - self._waiting_since if self._sent else 0

    def unacked_until(self, patience: int) -> int | None:
        """Return when `unacked_for` will have come to so much, ns; None while nothing is due."""
        return self._waiting_since + patience if self._sent else None

    def send(self, message: bytes) -> None:
        """Queue a message of 1 to MAX_MESSAGE bytes; raise StreamFull when too much waits already."""
        if not 0 < len(message) <= MAX_MESSAGE:
            raise ValueError(f"a message has 1 to {MAX_MESSAGE} bytes, not {len(message)}")
        if self._backlog + len(message) > MAX_QUEUE or len(self._queue) >= MAX_FRAGMENTS:
            raise StreamFull("the peer acknowledges too slowly")
        self._backlog += len(message)
        for at in range(0, len(message), self._room):
            end = at + self._room
            self._queue.append((message[at:end], end >= len(message)))

    def receive(self, raw: bytes | memoryview, now: int) -> list[bytes]:
        """Take in one authenticated frame (padding may follow it); return the messages it completes.

        Raises Malformed on what no honest peer sends; the channel is of no further use then.
        """
        frame = decode(raw)
        self._acknowledged(frame, now)
        if not frame.data:
            return []
        ahead = _distance(frame.sequence, self._expected)
        if ahead >= WINDOW:
            raise Malformed("frame beyond the window")
        self._unacked_frames += 1
        if ahead or self._early or self._unacked_frames >= ACK_EVERY:
            self._ack_at = now  # tell of gaps, filled gaps and repetitions at once
        elif self._ack_at is None:
            self._ack_at = now + ACK_DELAY_NS
        if ahead >= 0:
            self._early.setdefault(frame.sequence, frame)
        return self._deliver()

    def poll_transmit(self, now: int, limit: int = WINDOW) -> list[bytes]:
        """Return at most `limit` frames to send now, each at most frame_len long, for the caller to pad."""
        self._time_out(now)
        frames: list[bytes] = []
        for index, sent in enumerate(self._sent):
            if sent.lost and len(frames) < limit:
                frames.append(self._transmit(index, sent, now))
        while self._may_send_new() and len(frames) < limit:
            if not self._sent:
                self._waiting_since = now
            sent = _Sent(*self._queue.popleft())
            self._sent.append(sent)
            frames.append(self._transmit(len(self._sent) - 1, sent, now))
        if not frames and limit > 0 and self._ack_at is not None and self._ack_at <= now:
            frames.append(encode(Frame(self._expected, self._sack())))
        if frames:  # every frame acknowledges
            self._ack_at = None
            self._unacked_frames = 0
        return frames

    def next_deadline(self) -> int | None:
        """Return from when on (ns) `poll_transmit` has something to give: 0 for now, None for "not yet".

        None lasts until the next `send` or `receive`.
        """
        if self._may_send_new() or any(sent.lost for sent in self._sent):
            return 0
        rto = self._round_trip.rto
        due = [sent.sent_at + rto for sent in self._sent if sent.in_flight]
        if self._ack_at is not None:
            due.append(self._ack_at)
        return min(due, default=None)

    # -- sending ----------------------------------------------------------------------------------

    def _may_send_new(self) -> bool:
        return bool(self._queue) and len(self._sent) < WINDOW

    def _transmit(self, index: int, sent: _Sent, now: int) -> bytes:
        self._transmissions += 1
        sent.order = self._transmissions
        sent.sent_at = now
        sent.copies += 1
        sent.passed_by = 0
        sent.lost = False
        sequence = (self._base + index) & SEQUENCE_MASK
        return encode(Frame(self._expected, self._sack(), sequence, sent.data, sent.last))

    def _time_out(self, now: int) -> None:
        since = now - self._round_trip.rto
        late = [sent for sent in self._sent if sent.in_flight and sent.sent_at <= since]
        for sent in late:
            sent.lost = True
        if late:
            self._round_trip.back_off()

    def _acknowledged(self, frame: Frame, now: int) -> None:
        """Take in what a frame says of ours. A stale one says less, but nothing that became untrue."""
        ahead = _distance(frame.ack, self._base)
        if ahead > len(self._sent) or (frame.sack and ahead + frame.sack.bit_length() >= len(self._sent)):
            raise Malformed("acknowledgement of what was never sent")
        indices = [*range(ahead), *(ahead + 1 + i for i in range(SACK_BITS) if frame.sack >> i & 1)]
        fresh = [self._sent[i] for i in indices if i >= 0 and not self._sent[i].acked]
        if not fresh:
            return
        self._waiting_since = now
        for sent in fresh:
            sent.acked = True
            self._backlog -= len(sent.data)
        measured = [now - sent.sent_at for sent in fresh if sent.copies == 1]
        if measured:
            self._round_trip.sample(min(measured))
        self._find_passed(fresh)
        while self._sent and self._sent[0].acked:
            self._sent.popleft()
            self._base = (self._base + 1) & SEQUENCE_MASK

    def _find_passed(self, fresh: list[_Sent]) -> None:
        for sent in self._sent:
            if sent.in_flight:
                sent.passed_by += sum(sent.order < other.order for other in fresh)
                sent.lost = sent.passed_by >= REORDER_LIMIT

    # -- receiving --------------------------------------------------------------------------------

    def _deliver(self) -> list[bytes]:
        messages = []
        while (frame := self._early.pop(self._expected, None)) is not None:
            self._expected = (self._expected + 1) & SEQUENCE_MASK
            self._parts.append(frame.data)
            if sum(map(len, self._parts)) > MAX_MESSAGE:
                raise Malformed("message too long")
            if frame.last:
                messages.append(b"".join(self._parts))
                self._parts.clear()
        return messages

    def _sack(self) -> int:
        bits = 0
        for sequence in self._early:
            bit = _distance(sequence, self._expected) - 1
            if bit < SACK_BITS:
                bits |= 1 << bit
        return bits


def _distance(sequence: int, origin: int) -> int:
    """Return how far `sequence` is ahead of `origin`, negative if behind, on the 2^32 circle."""
    return ((sequence - origin + 0x80000000) & SEQUENCE_MASK) - 0x80000000
