"""The reliable channel, over a pipe that loses, delays, reorders and doubles, on a virtual clock."""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anonnet.errors import Malformed
from anonnet.proto.stream import ACK_DELAY_NS, INITIAL_RTO_NS, MAX_QUEUE, MIN_RTO_NS, MS, Stream, StreamFull
from anonnet.wire.stream import FRAME_HEADER, FRAME_HEADER_LEN, MAX_MESSAGE, WINDOW, Frame, decode, encode

FRAME_LEN = 198
SECOND = 1000 * MS


@dataclass
class Pipe:
    """Two streams and what lies between them. Times in ns."""

    seed: int
    loss: float = 0.0
    doubled: float = 0.0
    delay: int = 30 * MS
    jitter: int = 0
    slots: int = 4  # frames that each end may send per step of the clock
    now: int = 10**15
    frame_len: int = FRAME_LEN

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.ends = (Stream(self.frame_len), Stream(self.frame_len))
        self.got: tuple[list[bytes], list[bytes]] = ([], [])
        self.air: list[tuple[int, int, int, bytes]] = []
        self.frames = [0, 0]
        self.serial = 0

    def step(self, ns: int = 5 * MS) -> None:
        for index, end in enumerate(self.ends):
            for frame in end.poll_transmit(self.now, self.slots):
                assert len(frame) <= self.frame_len
                self.frames[index] += 1
                padded = frame + self.random.randbytes(self.frame_len - len(frame))
                for _ in range(1 + (self.random.random() < self.doubled)):
                    if self.random.random() >= self.loss:
                        self.serial += 1
                        at = self.now + self.delay + self.random.randint(0, self.jitter)
                        heapq.heappush(self.air, (at, self.serial, 1 - index, padded))
        self.now += ns
        while self.air and self.air[0][0] <= self.now:
            at, _, index, frame = heapq.heappop(self.air)
            self.got[index].extend(self.ends[index].receive(frame, at))
            check_bounds(self.ends[index])

    def run(self, until: int) -> None:
        while self.now < until and (self.air or any(end.next_deadline() is not None for end in self.ends)):
            self.step()


def check_bounds(end: Stream) -> None:
    assert len(end._sent) <= WINDOW
    assert len(end._early) < WINDOW
    assert sum(map(len, end._parts)) <= MAX_MESSAGE
    assert 0 <= end.backlog <= MAX_QUEUE


SIZES = st.integers(1, MAX_MESSAGE) | st.integers(1, 40)
MESSAGE = st.builds(lambda size, seed: random.Random(seed).randbytes(size), SIZES, st.integers(0, 2**32))
MESSAGES = st.lists(MESSAGE, max_size=20)


@settings(max_examples=60, deadline=None)
@given(
    MESSAGES,
    MESSAGES,
    st.integers(0, 2**32),
    st.floats(0, 0.3),
    st.floats(0, 0.2),
    st.sampled_from([0, 20, 200]),
    st.sampled_from([WINDOW, 4, 1]),
)
def test_everything_arrives_once_and_in_order(
    there: list[bytes], back: list[bytes], seed: int, loss: float, doubled: float, jitter: int, slots: int
) -> None:
    pipe = Pipe(seed, loss, doubled, jitter=jitter * MS, slots=slots)
    for message in there:
        pipe.ends[0].send(message)
    for message in back:
        pipe.ends[1].send(message)
    pipe.run(pipe.now + 600 * SECOND)
    assert pipe.got == (back, there)
    assert [end.backlog for end in pipe.ends] == [0, 0]
    assert [end.unacked_for(pipe.now) for end in pipe.ends] == [0, 0]


def test_sequence_numbers_wrap() -> None:
    pipe = Pipe(1, loss=0.1, jitter=40 * MS)
    sender, receiver = pipe.ends
    sender._base = receiver._expected = 2**32 - 20
    messages = [bytes([i]) * 300 for i in range(60)]
    for message in messages:
        sender.send(message)
    pipe.run(pipe.now + 120 * SECOND)
    assert pipe.got[1] == messages


def test_a_clean_pipe_needs_no_retransmission_and_few_acknowledgements() -> None:
    pipe = Pipe(1)
    for _ in range(10):
        pipe.ends[0].send(bytes(4000))
    pipe.run(pipe.now + 60 * SECOND)
    frames = 10 * -(-4000 // (FRAME_LEN - FRAME_HEADER_LEN))
    assert pipe.frames[0] == frames
    assert pipe.frames[1] <= frames / 2 + 5


def test_one_loss_is_mended_without_waiting_for_the_time_out() -> None:
    sender, receiver = Stream(FRAME_LEN), Stream(FRAME_LEN)
    for i in range(5):
        sender.send(bytes([i]) * 10)
    first, *others = sender.poll_transmit(0)
    for frame in others:
        assert receiver.receive(frame, 1 * MS) == []
    (ack,) = receiver.poll_transmit(1 * MS)
    assert sender.receive(ack, 2 * MS) == []
    assert sender.next_deadline() == 0
    (again,) = sender.poll_transmit(2 * MS)
    assert decode(again).data == decode(first).data
    assert receiver.receive(again, 3 * MS) == [bytes([i]) * 10 for i in range(5)]


def test_a_frame_sent_again_is_judged_by_its_last_copy() -> None:
    sender, receiver = Stream(FRAME_LEN), Stream(FRAME_LEN)
    for _ in range(6):
        sender.send(b"x")
    _, *others = sender.poll_transmit(0)
    for frame in others[:3]:
        receiver.receive(frame, 1)
    sender.receive(receiver.poll_transmit(1)[0], 2)
    assert len(sender.poll_transmit(2)) == 1  # the first one, again
    for frame in others[3:]:
        receiver.receive(frame, 3)
    sender.receive(receiver.poll_transmit(3)[0], 4)
    assert sender.poll_transmit(4) == []


def test_a_frame_sent_twice_measures_no_round_trip() -> None:
    sender, receiver = Stream(FRAME_LEN), Stream(FRAME_LEN)
    sender.send(b"x")
    sender.poll_transmit(0)
    (again,) = sender.poll_transmit(INITIAL_RTO_NS)
    receiver.receive(again, INITIAL_RTO_NS)
    sender.receive(receiver.poll_transmit(INITIAL_RTO_NS + ACK_DELAY_NS)[0], INITIAL_RTO_NS + 30 * MS)
    assert sender.backlog == 0
    assert sender._round_trip.rto == 2 * INITIAL_RTO_NS


@pytest.mark.parametrize(("took", "wait"), [(20, 100), (62, 210), (5000, 1000)])
def test_what_a_step_of_the_set_up_took_says_when_to_send_again(took: int, wait: int) -> None:
    sender = Stream(FRAME_LEN)
    sender.expect(took * MS, 1_000_000)  # eight cells take 8 ms
    sender.send(b"hello")
    assert len(sender.poll_transmit(0)) == 1
    assert sender.poll_transmit(wait * MS - 1) == []
    assert len(sender.poll_transmit(wait * MS)) == 1


def test_time_out_starts_at_a_second_and_doubles_to_its_cap() -> None:
    sender = Stream(FRAME_LEN)
    sender.send(b"hello")
    now, gaps = 0, []
    for _ in range(7):
        assert len(sender.poll_transmit(now)) == 1
        deadline = sender.next_deadline()
        assert deadline is not None
        assert sender.poll_transmit(deadline - 1) == []
        gaps.append((deadline - now) // SECOND)
        now = deadline
    assert gaps == [1, 2, 4, 8, 8, 8, 8]
    assert sender.unacked_for(now) == now


def test_time_out_follows_the_round_trip() -> None:
    pipe = Pipe(1, delay=40 * MS)
    for _ in range(40):
        pipe.ends[0].send(b"x")
        for _ in range(40):
            pipe.step()
    rto = pipe.ends[0]._round_trip.rto
    assert MIN_RTO_NS <= rto < INITIAL_RTO_NS / 3


def test_total_loss_never_raises_and_is_seen() -> None:
    pipe = Pipe(1, loss=1.0)
    pipe.ends[0].send(bytes(MAX_MESSAGE))
    start = pipe.now
    pipe.run(start + 60 * SECOND)
    assert pipe.ends[0].unacked_for(pipe.now) == pipe.now - start
    assert pipe.frames[0] < 30 * 12  # it backs off


def test_full_queue_raises() -> None:
    sender = Stream(FRAME_LEN)
    for _ in range(MAX_QUEUE // MAX_MESSAGE):
        sender.send(bytes(MAX_MESSAGE))
    with pytest.raises(StreamFull):
        sender.send(b"x")
    assert sender.backlog == MAX_QUEUE


def test_acknowledgement_is_delayed_and_then_sent() -> None:
    sender, receiver = Stream(FRAME_LEN), Stream(FRAME_LEN)
    sender.send(b"x")
    (frame,) = sender.poll_transmit(0)
    assert receiver.receive(frame, 100) == [b"x"]
    assert receiver.poll_transmit(100) == []
    assert receiver.next_deadline() == 100 + ACK_DELAY_NS
    (ack,) = receiver.poll_transmit(100 + ACK_DELAY_NS)
    assert receiver.next_deadline() is None
    sender.receive(ack, 200 + ACK_DELAY_NS)
    assert sender.next_deadline() is None


def test_a_repeated_frame_is_acknowledged_at_once_but_not_delivered() -> None:
    sender, receiver = Stream(FRAME_LEN), Stream(FRAME_LEN)
    sender.send(b"x")
    (frame,) = sender.poll_transmit(0)
    receiver.receive(frame, 0)
    receiver.poll_transmit(ACK_DELAY_NS)
    assert receiver.receive(frame, SECOND) == []
    assert len(receiver.poll_transmit(SECOND)) == 1


def test_limit_is_kept() -> None:
    sender = Stream(FRAME_LEN)
    sender.send(bytes(4000))
    assert sender.poll_transmit(0, 0) == []
    assert len(sender.poll_transmit(0, 3)) == 3
    assert sender.next_deadline() == 0


@pytest.mark.parametrize("message", [b"", bytes(MAX_MESSAGE + 1)])
def test_message_lengths(message: bytes) -> None:
    with pytest.raises(ValueError, match="bytes"):
        Stream(FRAME_LEN).send(message)


ILLEGAL = {
    "too short": bytes(FRAME_HEADER_LEN - 1),
    "acknowledges what was not sent": encode(Frame(ack=2)),
    "selectively acknowledges what was not sent": encode(Frame(ack=0, sack=1)),
    "beyond the window": encode(Frame(ack=0, sequence=WINDOW, data=b"x")),
    "length beyond the frame": encode(Frame(ack=0, data=b"xy"))[:-1],
    "data of no length": bytes.fromhex("00000000 00000000 4000 00000000"),
    "length without data": bytes.fromhex("00000000 00000000 0001 00000000") + bytes(8),
    "last without data": bytes.fromhex("00000000 00000000 8000 00000000"),
    "sequence without data": bytes.fromhex("00000000 00000001 0000 00000000"),
}


@pytest.mark.parametrize("raw", ILLEGAL.values(), ids=ILLEGAL.keys())
def test_illegal_frames_are_malformed(raw: bytes) -> None:
    end = Stream(FRAME_LEN)
    end.send(b"one frame")
    end.poll_transmit(0)
    with pytest.raises(Malformed):
        end.receive(raw, 0)
    assert end.backlog == 9


def test_an_endless_message_is_malformed() -> None:
    end = Stream(1200)

    def flood() -> None:
        for sequence in range(WINDOW):
            end.receive(encode(Frame(ack=0, sequence=sequence, data=bytes(1000))), 0)

    with pytest.raises(Malformed):
        flood()


RAW_FRAMES = st.builds(
    lambda ack, sequence, flags, sack, data: FRAME_HEADER.pack(ack, sequence, flags, sack) + data,
    st.integers(0, 4),
    st.integers(0, WINDOW + 1),
    st.sampled_from([0, 0x4001, 0xC001, 0xC008]),
    st.integers(0, 3),
    st.binary(min_size=8, max_size=8),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=40) | RAW_FRAMES, max_size=40))
def test_hostile_frames_raise_malformed_or_nothing(frames: list[bytes]) -> None:
    end = Stream(FRAME_LEN)
    end.send(bytes(500))
    end.poll_transmit(0)
    for now, frame in enumerate(frames):
        try:
            end.receive(frame, now)
        except Malformed:
            return
        check_bounds(end)
        end.poll_transmit(now)


def test_progress_after_an_outage() -> None:
    pipe = Pipe(3)
    pending = deque(bytes([i]) * 50 for i in range(20))
    sent = list(pending)
    while pending:
        pipe.loss = 1.0 if 5 < len(pending) < 15 else 0.0
        pipe.ends[0].send(pending.popleft())
        for _ in range(100):
            pipe.step()
    pipe.run(pipe.now + 60 * SECOND)
    assert pipe.got[1] == sent
    assert pipe.ends[0]._round_trip.rto < SECOND
