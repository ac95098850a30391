"""Two kernels' TCP through two TUNs: large segments cross whole, and come out as the same bytes.

namespace a (10.7.0.1, fd07::1) -- TUN -- this test -- TUN -- namespace b (10.7.0.2, fd07::2)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from threading import Thread
from typing import Any

import pytest
from pyroute2 import netns
from scapy.layers.inet import IP, TCP
from scapy.packet import Raw

from anonnet.net.tunfile import TunFile
from anonnet.proto.train import cut, sound
from anonnet.proto.waiting import Waiting
from anonnet.spec import MAX_TRAIN, TUN_MTU
from anonnet.tun.actions import CreateTun
from anonnet.tun.device import create_tun

pytestmark = pytest.mark.root

A, B = (f"antest-{side}-{os.getpid()}" for side in "ab")
ADDRESSES = {A: ("10.7.0.1", "fd07::1"), B: ("10.7.0.2", "fd07::2")}
SIZE = 3_000_000
RATE = 100_000_000  # bytes a second: trains of all lengths
PATIENCE_S = 20


def within(namespace: str, function: Any) -> Any:
    """Call a function in a thread of that namespace; sockets and devices stay in it."""
    found: list[Any] = []

    def run() -> None:
        netns.setns(namespace)
        found.append(function())

    thread = Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


@pytest.fixture
def tuns() -> Iterator[list[TunFile]]:
    with contextlib.ExitStack() as stack:
        ends = []
        for name, (four, six) in ADDRESSES.items():
            netns.create(name)
            stack.callback(netns.remove, name)
            action = CreateTun("t0", "test", (f"{four}/24", f"{six}/64"), TUN_MTU)
            tun = within(name, lambda action=action: create_tun(action))
            stack.callback(tun.close)
            ends.append(TunFile(tun.fd))
        yield ends


class Carrier:
    """Carries packets from each TUN to the other, through a circuit's queue."""

    def __init__(self, tuns: list[TunFile]) -> None:
        self._tuns = tuns
        self._queues = [Waiting(), Waiting()]
        for queue in self._queues:
            queue.pace(RATE)
        self.longest = 0
        self.unsound = 0

    def carry(self, seconds: float) -> None:
        ready, _, _ = select.select([tun.fd for tun in self._tuns], [], [], seconds)
        for tun, queue, other in zip(self._tuns, self._queues, reversed(self._tuns), strict=True):
            if tun.fd in ready:
                for packet in tun.read():
                    queue.push(packet)
            while (packet := queue.pop()) is not None:
                self.longest = max(self.longest, len(packet))
                self.unsound += len(packet) > TUN_MTU and not sound(packet)
                other.write(packet)


def test_a_burst_of_a_tick_waits_until_it_is_read(tuns: list[TunFile]) -> None:
    """Three times 250 Mbit/s for 12 ms: none of it is dropped before our own queue."""
    burst = 780
    sender = within(A, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with sender:
        for number in range(burst):
            sender.sendto(number.to_bytes(2, "big"), (ADDRESSES[B][0], 5000))
    came: list[bytearray] = []
    while packets := tuns[0].read():
        came += [packet for packet in packets if packet[0] == 0x45]  # IPv6 may look for its neighbours
    assert [int.from_bytes(packet[28:], "big") for packet in came] == list(range(burst))


@pytest.mark.parametrize("version", [4, 6])
def test_tcp_crosses_as_trains(tuns: list[TunFile], version: int) -> None:
    carrier = Carrier(tuns)
    family, address = ((socket.AF_INET, ADDRESSES[B][0]), (socket.AF_INET6, ADDRESSES[B][1]))[version == 6]
    server = within(B, lambda: socket.create_server((address, 5000), family=family))
    client = within(A, lambda: socket.socket(family))
    payload = os.urandom(SIZE)
    came = hashlib.sha256()
    left = SIZE
    with server, client:
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            client.connect((address, 5000))
        end: socket.socket | None = None
        sent = 0
        until = time.monotonic() + PATIENCE_S
        server.setblocking(False)
        while left:
            assert time.monotonic() < until, f"{left} bytes did not come"
            carrier.carry(0.001)
            if end is None:
                with contextlib.suppress(BlockingIOError):
                    end, _ = server.accept()
                    end.setblocking(False)
            else:
                with contextlib.suppress(BlockingIOError):
                    sent += client.send(payload[sent : sent + 262_144])
                with contextlib.suppress(BlockingIOError):
                    while data := end.recv(1 << 20):
                        came.update(data)
                        left -= len(data)
        assert end is not None
        end.close()
    assert came.digest() == hashlib.sha256(payload).digest()
    assert 8 * TUN_MTU < carrier.longest <= MAX_TRAIN
    assert not carrier.unsound
    for name in ADDRESSES:
        command = ["ip", "netns", "exec", name, "nstat", "-asz", "TcpInCsumErrors"]
        counter = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        assert counter[counter.index("TcpInCsumErrors") + 1] == "0"


def test_what_is_no_tun_gets_segments() -> None:
    ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, other:
        ours.setblocking(False)
        other.setblocking(False)
        tun = TunFile(ours.fileno())
        other.send(b"a packet")
        assert tun.read() == [bytearray(b"a packet")]
        assert tun.read() == []


def segment(port: int, seq: int) -> bytes:
    return bytes(
        IP(src="10.7.0.1", dst="10.7.0.2", flags="DF", id=0)
        / TCP(sport=443, dport=port, seq=seq, ack=77, flags="A")
        / Raw(random.Random(seq).randbytes(1000))
    )


def test_segments_that_come_one_by_one_are_joined_as_they_are_read() -> None:
    """Those of another connection, and those that do not go on where the last ended, are not."""
    ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, other:
        ours.setblocking(False)
        tun = TunFile(ours.fileno())
        one = [segment(4000, seq) for seq in (1, 1001, 2001)]
        sent = [*one, segment(5000, 1), segment(5000, 3001)]
        for packet in sent:
            other.send(packet)
        train, *others = tun.read()
        assert sound(train)
        assert [bytes(piece) for piece in cut(train, 1000, 0)] == one
        assert [bytes(packet) for packet in others] == sent[3:]
