"""Packets that show what became of them: numbered, and every byte follows from number and size."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Final

from anonnet.sim.clock import MS
from anonnet.sim.simnode import SimNode
from anonnet.sim.world import World
from anonnet.spec import INNER4_CALLER

SERVER: Final = "203.0.113.9"
_UDP: Final = 17
_HEADERS: Final = 28


def packet(source: str, target: str, number: int, size: int) -> bytes:
    """Return a UDP packet over IPv4 whose every byte follows from its number and size."""
    body = struct.pack(">Q", number) + hashlib.shake_128(b"%d %d" % (number, size)).digest(size - 8)
    addresses = IPv4Address(source).packed + IPv4Address(target).packed
    head = struct.pack(">BBHHHBBH", 0x45, 0, _HEADERS + size, 0, 0x4000, 64, _UDP, 0) + addresses
    total = sum(struct.unpack(">10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    udp = struct.pack(">HHHH", 4000, 5000, 8 + size, 0)
    return head[:10] + struct.pack(">H", checksum) + head[12:] + udp + body


def number_of(data: bytes | bytearray) -> int:
    """Check that a packet's payload is as it was sent; return its number."""
    (number,) = struct.unpack_from(">Q", data, _HEADERS)
    size = len(data) - _HEADERS
    expected = hashlib.shake_128(b"%d %d" % (number, size)).digest(size - 8)
    assert bytes(data[_HEADERS + 8 :]) == expected, "a packet was altered on its way"
    return int(number)


class Traffic:
    """Numbered packets both ways through a caller's circuit, one each way every `interval` ns."""

    def __init__(self, world: World, interval: int = 10 * MS, size: int = 900, caller: str = "caller",
                 exit_name: str = "exit") -> None:  # fmt: skip
        self.world = world
        self.sent = 0
        self.out: list[int] = []  # numbers that came out at the exit
        self.back: list[int] = []  # and at the caller
        self.keep = True  # the numbers that came; in a long run they fill memory
        self.on_out: Callable[[int], None] = lambda number: None
        self.on_back: Callable[[int], None] = lambda number: None
        self._interval = interval
        self._size = size
        self._running = True
        self._pool = ""
        self._caller: SimNode = world.nodes[caller]
        self._exit: SimNode = world.nodes[exit_name]
        self._exit.on_packet = self._at_exit
        self._caller.on_packet = self._at_caller
        self._send()

    def stop(self) -> None:
        """Send no more."""
        self._running = False

    def _send(self) -> None:
        if not self._running:
            return
        self._caller.send("caller", packet(INNER4_CALLER, SERVER, self.sent, self._size))
        if self._pool:
            self._exit.send("exit", packet(SERVER, self._pool, self.sent, self._size))
        self.sent += 1
        self.world.at(self.world.now + self._interval, self._send)

    def _at_exit(self, role: str, data: bytearray) -> None:
        assert role == "exit"
        self._pool = str(IPv4Address(bytes(data[12:16])))
        number = number_of(data)
        if self.keep:
            self.out.append(number)
        self.on_out(number)

    def _at_caller(self, role: str, data: bytearray) -> None:
        assert role == "caller"
        number = number_of(data)
        if self.keep:
            self.back.append(number)
        self.on_back(number)
