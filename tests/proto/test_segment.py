"""Segmentation: packets in, cells through a pipe that loses, reorders and doubles, packets out."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anonnet.proto.engine import PYTHON, Engine
from anonnet.proto.segment import MAX_PACKET, Reassembler
from anonnet.spec import NARROW, NO_FIRST, WIDE, Format, Kind
from anonnet.wire.cell import PAYLOAD_HEADER, rows

MS = 1_000_000
HOLD = 20 * MS
MAX_HELD = 16
FORMATS = st.sampled_from([WIDE, NARROW])
EDGES = st.sampled_from([fmt.content_len - less for fmt in (WIDE, NARROW) for less in range(4)])
SIZES = st.integers(1, 100) | st.integers(1, 1500) | EDGES | st.just(MAX_PACKET)
PACKET = st.builds(lambda size, seed: random.Random(seed).randbytes(size), SIZES, st.integers(0, 2**32))
PACKETS = st.lists(PACKET, max_size=30)


def cells_of(engine: Engine, packets: list[bytes], fmt: Format, cells_between: int = 1 << 30) -> list[bytes]:
    """Payloads that carry the packets; with a small `cells_between`, packets come while cells go out."""
    waiting: list[bytes] = []
    segmenter = engine.segmenter(fmt.content_len, lambda: waiting.pop(0) if waiting else None)
    (row,) = rows(fmt, 1)
    cells = []

    def drain(limit: int) -> None:
        while limit and segmenter.fill(row):
            cells.append(row.payload.tobytes())
            row.cell[:] = b"\xee" * len(row.cell)  # what the next payload must not show
            limit -= 1

    for packet in packets:
        waiting.append(packet)
        if cells_between < 1 << 30:
            drain(cells_between)
    drain(-1)
    return cells


def reassembler(engine: Engine, fmt: Format, max_packet: int = MAX_PACKET) -> Reassembler:
    return Reassembler(engine.unpacker(fmt.content_len, max_packet), HOLD, MAX_HELD)


def payload(first: int, sequence: int, content: bytes, fmt: Format = NARROW) -> memoryview:
    header = PAYLOAD_HEADER.pack(Kind.DATA << 12 | first, sequence)
    return memoryview(header + content.ljust(fmt.content_len, b"\0"))


@given(PACKETS, FORMATS, st.integers(0, 3))
def test_without_loss_everything_arrives(
    engine: Engine, packets: list[bytes], fmt: Format, between: int
) -> None:
    end = reassembler(engine, fmt)
    got = [p for cell in cells_of(engine, packets, fmt, between) for p in end.receive(memoryview(cell), 0)]
    assert got == packets
    assert end.counts.malformed == end.counts.lost == 0
    assert end.next_deadline() is None


@given(PACKETS, FORMATS)
def test_packing_is_tight_and_padding_is_zero(engine: Engine, packets: list[bytes], fmt: Format) -> None:
    cells = cells_of(engine, packets, fmt)
    total = sum(map(len, packets)) + 2 * len(packets)
    # at most one byte a cell is lost to a length that did not fit
    assert len(cells) * (fmt.content_len - 1) <= total + fmt.content_len
    if cells:
        content = b"".join(cell[6:] for cell in cells)
        assert len(content.rstrip(b"\0")) <= total + len(cells)


@settings(max_examples=200, deadline=None)
@given(
    PACKETS, FORMATS, st.integers(0, 2**32), st.floats(0, 0.4), st.floats(0, 0.3), st.integers(0, 30),
    st.integers(0, 2**32 - 1) | st.just(2**32 - 5),
)  # fmt: skip
def test_through_a_bad_pipe_only_whole_packets_in_order(
    engine: Engine,
    packets: list[bytes],
    fmt: Format,
    seed: int,
    loss: float,
    doubled: float,
    jitter: int,
    start: int,
) -> None:
    rng = random.Random(seed)
    air = []
    for index, cell in enumerate(cells_of(engine, packets, fmt)):
        renumbered = PAYLOAD_HEADER.pack(*_renumbered(cell, start)) + cell[6:]
        for _ in range(1 + (rng.random() < doubled)):
            if rng.random() >= loss:
                air.append((index * MS + rng.randint(0, jitter) * MS, rng.random(), renumbered))
    end = reassembler(engine, fmt)
    end._next = start
    got: list[bytes] = []
    for now, _, cell in sorted(air):
        deadline = end.next_deadline()
        if deadline is not None and deadline <= now:
            got += end.on_deadline(deadline)
        got += end.receive(memoryview(cell), now)
        assert len(end._held) <= MAX_HELD
    got += end.on_deadline(1 << 60)
    assert end.next_deadline() is None
    assert end.counts.malformed == 0
    remaining = iter(packets)
    assert all(any(packet == candidate for candidate in remaining) for packet in got)
    if loss == 0 and jitter <= MAX_HELD - 1:
        assert got == packets


def _renumbered(cell: bytes, start: int) -> tuple[int, int]:
    word, sequence = PAYLOAD_HEADER.unpack_from(cell)
    return word, (sequence + start) % 2**32


@given(st.lists(st.binary(min_size=1, max_size=400), min_size=1, max_size=30), st.data())
def test_a_lost_cell_costs_only_the_packets_in_it(
    engine: Engine, packets: list[bytes], data: st.DataObject
) -> None:
    cells = cells_of(engine, packets, NARROW)
    lost = data.draw(st.integers(0, len(cells) - 1))
    end = reassembler(engine, NARROW)
    got = [p for i, cell in enumerate(cells) if i != lost for p in end.receive(memoryview(cell), 0)]
    got += end.on_deadline(HOLD)
    touched, cell, at = 0, 0, 0
    for packet in packets:
        if NARROW.content_len - at < 2:
            cell, at = cell + 1, 0
        at += 2 + len(packet)
        through = cell + (at - 1) // NARROW.content_len
        touched += cell <= lost <= through
        cell, at = cell + at // NARROW.content_len, at % NARROW.content_len
    assert len(got) == len(packets) - touched


def test_counts(engine: Engine) -> None:
    end = reassembler(engine, NARROW)
    cells = [payload(0, i, bytes([0, 1, i])) for i in range(6)]
    assert end.receive(cells[0], 0) == [b"\0"]
    assert end.receive(cells[0], 0) == []
    assert end.receive(cells[3], 5) == []
    assert end.receive(cells[3], 5) == []
    assert end.counts.duplicate == 2
    assert end.next_deadline() == 5 + HOLD
    assert end.receive(cells[1], 6) == [b"\1"]
    assert end.on_deadline(4 + HOLD) == []
    assert end.on_deadline(5 + HOLD) == [b"\3"]
    assert end.receive(cells[2], 6 + HOLD) == []
    assert (end.counts.lost, end.counts.late, end.counts.duplicate) == (1, 1, 2)
    assert end.receive(cells[4], 6 + HOLD) == [b"\4"]


def test_too_many_held_give_up_on_the_gap(engine: Engine) -> None:
    end = reassembler(engine, NARROW)
    got = []
    for i in range(1, MAX_HELD + 2):
        assert got == []
        got = end.receive(payload(0, i, bytes([0, 1, i])), 0)
    assert got == [bytes([i]) for i in range(1, MAX_HELD + 2)]
    assert end.counts.lost == 1


MALFORMED = {
    "first beyond the cell": [(NARROW.content_len, b"")],
    "first in the last byte": [(NARROW.content_len - 1, b"")],
    "first at a zero length": [(0, b"\0\0")],
    "packet longer than allowed": [(0, b"\xff\xff")],
    "start inside a packet that goes on": [(0, b"\x01\x2c"), (4, b"\0\0\0\0\0\1x")],
}


@pytest.mark.parametrize("cells", MALFORMED.values(), ids=MALFORMED.keys())
def test_contradictions_are_counted_and_survived(engine: Engine, cells: list[tuple[int, bytes]]) -> None:
    end = reassembler(engine, NARROW, max_packet=1500)
    for sequence, (first, content) in enumerate(cells):
        end.receive(payload(first, sequence, content), 0)
    assert end.counts.malformed == 1
    assert end.receive(payload(0, len(cells), b"\0\2ok"), 0) == [b"ok"]


def test_a_new_start_inside_a_packet_resynchronises(engine: Engine) -> None:
    end = reassembler(engine, NARROW)
    end.receive(payload(0, 0, b"\x01\x2c"), 0)
    assert end.receive(payload(4, 1, b"\0\0\0\0\0\1x"), 0) == [b"x"]


SEQUENCES = st.integers(0, 2**32 - 1) | st.integers(0, 40)


@given(st.lists(st.tuples(st.integers(0, 0xFFF), SEQUENCES, st.binary())))
def test_a_hostile_peer_costs_bounded_memory_and_no_exception(
    engine: Engine, cells: list[tuple[int, int, bytes]]
) -> None:
    end, other = (reassembler(one, NARROW, max_packet=1500) for one in (engine, PYTHON))
    for now, (first, sequence, content) in enumerate(cells):
        came = payload(first, sequence, content[: NARROW.content_len])
        packets = end.receive(came, now * MS)
        assert packets == other.receive(came, now * MS)
        assert all(0 < len(packet) <= 1500 for packet in packets)
        assert len(end._held) <= MAX_HELD
        assert len(end._gaps) <= 64
        assert end.counts == other.counts
        assert len(other._unpacker._parts) <= 1500


def test_nothing_to_send_leaves_the_row_alone(engine: Engine) -> None:
    (row,) = rows(WIDE, 1)
    row.cell[:] = b"\xaa" * len(row.cell)
    assert not engine.segmenter(WIDE.content_len, lambda: None).fill(row)
    assert row.cell == b"\xaa" * len(row.cell)


def test_vector(engine: Engine) -> None:
    packets = [b"\x11" * 100, b"\x22" * 100, b"\x33" * 94, b"\x44"]
    cells = cells_of(engine, packets, NARROW)
    assert NARROW.content_len == 198
    assert cells[0] == bytes.fromhex("2000 00000000 0064" + "11" * 100 + "0064" + "22" * 94)
    assert cells[1] == bytes.fromhex("2006 00000001" + "22" * 6 + "005e" + "33" * 94 + "0001 44") + bytes(93)
    tail = cells_of(
        engine, [b"\x77" * 194, b"\x88" * 3], NARROW
    )  # the length still fits, its packet does not
    assert tail[0] == bytes.fromhex("2000 00000000 00c2" + "77" * 194 + "0003")
    assert tail[1] == bytes.fromhex("2fff 00000001 888888") + bytes(195)
    filled = cells_of(engine, [b"\x55" * 394, b"\x66"], NARROW)  # a packet that ends exactly with its cell
    assert [int.from_bytes(cell[:2], "big") & NO_FIRST for cell in filled] == [0, NO_FIRST, 0]
