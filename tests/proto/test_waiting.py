"""The queue before a circuit: turns, what a short queue is, and what all of it may come to."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anonnet.proto.waiting import INTERVAL_NS, LEAST_LIMIT, LIMIT_NS, TARGET_NS, Waiting
from anonnet.spec import TUN_MTU

MS = 1_000_000
SECOND = 1_000_000_000
WEB = IPv4Address("203.0.113.2")
HOST = IPv4Address("192.0.0.2")
UDP, TCP, ICMP = 17, 6, 1


def ipv4(size: int, ports: tuple[int, int] = (40000, 80), protocol: int = TCP, fragment: int = 0) -> bytes:
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, size, 7, fragment, 64, protocol, 0, WEB.packed, HOST.packed)
    return (head + struct.pack("!HH", *ports)).ljust(size, b"\0")


def ipv6(size: int, ports: tuple[int, int]) -> bytes:
    ends = IPv6Address("2001:db8::1").packed + IPv6Address("2001:db8::2").packed
    head = struct.pack("!IHBB", 6 << 28, size - 40, UDP, 64) + ends
    return (head + struct.pack("!HH", *ports)).ljust(size, b"\0")


def drained(waiting: Waiting) -> list[bytes]:
    return list(iter(waiting.pop, None))


def test_one_flow_keeps_its_order() -> None:
    waiting = Waiting()
    waiting.pace(1e9)
    packets = [ipv4(100 + n) for n in range(50)]
    for packet in packets:
        waiting.push(bytearray(packet))
    assert waiting.backlog == sum(map(len, packets))
    assert drained(waiting) == packets
    assert (waiting.backlog, waiting.dropped) == (0, 0)


@pytest.mark.parametrize("make", [ipv4, ipv6])
def test_a_key_press_passes_a_download(make: Callable[[int, tuple[int, int]], bytes]) -> None:
    waiting = Waiting()
    waiting.pace(1e9)
    for _ in range(50):
        waiting.push(make(1400, (80, 40000)))
    assert waiting.pop()
    press = make(80, (22, 40001))
    waiting.push(press)
    assert press in (waiting.pop(), waiting.pop())


def test_flows_share_by_bytes() -> None:
    waiting = Waiting()
    waiting.pace(1e9)
    for _ in range(400):
        waiting.push(ipv4(200, (80, 40000)))
        waiting.push(ipv4(200, (80, 40000)))
        waiting.push(ipv4(1500, (80, 40001)))
    came = Counter[int]()
    while sum(came.values()) < 60_000:
        packet = waiting.pop()
        assert packet is not None
        came[len(packet)] += len(packet)
    assert abs(came[200] - came[1500]) <= 2 * TUN_MTU


def test_pieces_of_a_packet_keep_their_order() -> None:
    waiting = Waiting()
    waiting.pace(1e9)
    filler = [ipv4(1500, (1, 2), UDP) for _ in range(3)]
    pieces = [ipv4(1500, (5, 6), UDP, 0x2000), ipv4(1500, (0xAAAA, 0xBBBB), UDP, 0x2000 | 185)]
    for packet in filler + pieces:
        waiting.push(packet)
    assert [packet for packet in drained(waiting) if packet in pieces] == pieces


def serve(waiting: Waiting, offered: float, rate: float, seconds: float) -> tuple[list[int], int]:
    """Offer a flow bytes/s, take away `rate`; return how long each packet waited (ns) and how many came."""
    waits, sent, budget, came = [], 0.0, 0.0, 0
    step = 5 * MS
    for now in range(0, int(seconds * SECOND), step):
        waiting.now = now
        sent += offered * step / SECOND
        while sent >= 1500:
            waiting.push(ipv4(1492) + now.to_bytes(8, "big"))
            sent -= 1500
            came += 1
        budget += rate * step / SECOND
        while budget >= 1500 and (packet := waiting.pop()):
            budget -= 1500
            waits.append(now - int.from_bytes(packet[-8:], "big"))
        budget = min(budget, 3000)
    return waits, came


def test_a_queue_that_keeps_being_short_loses_nothing() -> None:
    waiting = Waiting()
    waiting.pace(1e6)
    waits, came = serve(waiting, 0.95e6, 1e6, 5)
    assert waiting.dropped == 0
    assert len(waits) >= came - 2
    assert max(waits) <= TARGET_NS


def test_a_burst_is_let_pass() -> None:
    waiting = Waiting()
    waiting.pace(1e6)
    for _ in range(120):
        waiting.push(ipv4(1500))  # 180 ms at this rate: over the target, for less than an interval
    waits, _ = serve(waiting, 0, 1e6, 0.5)
    assert (len(waits), waiting.dropped) == (120, 0)


def test_a_flow_that_keeps_waiting_loses_a_packet_now_and_then() -> None:
    waiting = Waiting()
    waiting.pace(1e6)
    waits, _ = serve(waiting, 1.02e6, 1e6, 20)
    # The queue would grow by 20 ms a second. Dropping begins an interval after it is past the target, and
    # takes more and more until it is short again; nobody who slows down loses a run of packets.
    assert waiting.dropped >= 10
    assert max(waits) < LIMIT_NS
    assert sorted(waits)[len(waits) // 2] < TARGET_NS + INTERVAL_NS / 4


def test_a_flood_pays_for_its_own() -> None:
    waiting = Waiting()
    waiting.pace(1e6)
    echo = ipv4(84, protocol=ICMP)
    for _ in range(2000):
        waiting.push(ipv4(1000, (9, 9), UDP))
    waiting.push(echo)
    for _ in range(2000):
        waiting.push(ipv4(1000, (9, 9), UDP))
    assert waiting.backlog <= 1e6 * LIMIT_NS / SECOND
    assert echo in drained(waiting)


def test_a_slow_link_has_room_for_a_few_packets() -> None:
    waiting = Waiting()
    waiting.pace(3000)
    waits, _ = serve(waiting, 2900, 3000, 60)
    assert waiting.dropped == 0
    assert waits
    for _ in range(50):
        waiting.push(ipv4(1500))
    assert LEAST_LIMIT - 1500 < waiting.backlog <= LEAST_LIMIT


@given(
    st.lists(st.one_of(st.binary(min_size=1, max_size=60), st.integers(0, 300))),
    st.just(0.0) | st.floats(0.1, 1e6),
)
def test_every_packet_is_popped_once_or_dropped(script: list[bytes | int], rate: float) -> None:
    """Any bytes at all; an integer stands for so many ms, and one packet taken."""
    waiting = Waiting()
    waiting.pace(rate)
    pushed, popped = Counter[bytes](), Counter[bytes]()
    for act in script:
        if isinstance(act, bytes):
            waiting.push(act)
            pushed[act] += 1
        else:
            waiting.now += act * MS
            if (packet := waiting.pop()) is not None:
                popped[packet] += 1
    popped.update(drained(waiting))
    assert popped <= pushed
    assert popped.total() + waiting.dropped == pushed.total()
    assert waiting.backlog == 0
