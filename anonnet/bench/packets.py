"""What a packet costs at the ends of a circuit: from the caller's TUN into cells, out of them at the exit.

    packets --send--> waiting, joined to trains --fill--> cells --receive--> packets, rewritten

CPU time, hot, without TUN, layers and links, which have figures of their own. A round is as much as a TUN
gives at once; medians of many.
"""

from __future__ import annotations

import os
import statistics
import struct
import time
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from anonnet.proto.circuit import Circuit
from anonnet.proto.engine import NATIVE, PYTHON, Engine
from anonnet.proto.normalise import Normaliser
from anonnet.proto.rewrite import HEAD4, TCP, UDP, Rewriter
from anonnet.proto.train import cut
from anonnet.spec import INNER4_CALLER, MAX_TRAIN, TUN_MTU, Format
from anonnet.wire.cell import CellRow, rows

SERVER: Final = IPv4Address("198.51.100.1").packed
POOL4: Final = IPv4Address("100.64.0.1").packed
POOL6: Final = bytes(16)
ROUTE: Final = 1
RATE: Final = 20_000  # cells a second: enough for the longest trains
SMALL_LEN: Final = 100  # bytes of a small packet
SMALL: Final = 64  # small packets in a round
_IP4: Final = struct.Struct(">BxHHHBBH4s4s")
_TCP: Final = struct.Struct(">HHIIBBHHH")
_UDP: Final = struct.Struct(">HHHH")
_DF: Final = 0x4000
_ACK: Final = 0x10


@dataclass(frozen=True)
class PacketCost:
    """Microseconds, by one engine, for one kind of traffic in cells of one format."""

    engine: str
    kind: str
    join: float | None  # for each packet that is joined to the one before, by itself; none of small ones is
    send: float  # for each packet: normalised, queued, joined
    fill: float  # for each cell
    receive: float  # for each cell: packets out of it, rewritten, handed over
    cells: float  # for each packet


def measure(fmt: Format, rounds: int) -> list[PacketCost]:
    """Measure all kinds of traffic, by each engine that there is."""
    kinds = {
        "TCP, joined": cut(_tcp(MAX_TRAIN), TUN_MTU - HEAD4.size - _TCP.size, TUN_MTU),
        f"UDP of {SMALL_LEN} bytes": [_udp(SMALL_LEN, port) for port in range(1, SMALL + 1)],
    }
    return [
        _measure(fmt, engine, kind, packets, rounds)
        for engine in (NATIVE, PYTHON) if engine is not None
        for kind, packets in kinds.items()
    ]  # fmt: skip


def _measure(fmt: Format, engine: Engine, kind: str, packets: list[bytearray], rounds: int) -> PacketCost:
    ends = Ends(fmt, engine)
    costs = [ends.round([bytearray(packet) for packet in packets]) for _ in range(rounds)]
    send, fill, receive = (statistics.median(column) / 1000 for column in list(zip(*costs, strict=True))[:3])
    count, cells = len(packets), costs[-1][3]
    joins = [_join(engine, [bytearray(packet) for packet in packets]) for _ in range(rounds)]
    join = statistics.median(joins) / 1000 if joins[0] else None
    return PacketCost(engine.name, kind, join, send / count, fill / cells, receive / cells, cells / count)


class Ends:
    """Both ends of a circuit, without anything between."""

    def __init__(self, fmt: Format, engine: Engine) -> None:
        self.delivered: list[bytearray] = []
        rewriter = Rewriter(POOL4, POOL6, engine.rewrite)
        normaliser = Normaliser(os.urandom)
        self._caller = Circuit(1, fmt, engine, normaliser.outward, normaliser.inward, _lose)
        self._exit = Circuit(1, fmt, engine, rewriter.inward, rewriter.outward, self.delivered.append)
        self._caller.resize(ROUTE, RATE)
        self._exit.expect(ROUTE, RATE)
        self._rows = rows(fmt, 2 * MAX_TRAIN // fmt.content_len + SMALL)

    def round(self, packets: list[bytearray]) -> tuple[int, int, int, int]:
        """Carry packets over; return what sending, filling and receiving took (ns), and how many cells."""
        payload = sum(map(_payload_len, packets))
        began = time.thread_time_ns()
        for packet in packets:
            self._caller.send(packet)
        sent = time.thread_time_ns()
        used: list[CellRow] = []
        for row in self._rows:
            if not self._caller.fill(ROUTE, row):
                break
            used.append(row)
        filled = time.thread_time_ns()
        for row in used:
            self._exit.receive(row.payload, 0)
        received = time.thread_time_ns()
        if sum(map(_payload_len, self.delivered)) != payload:
            raise RuntimeError("a packet was lost on its way")
        self.delivered.clear()
        return sent - began, filled - sent, received - filled, len(used)


def _payload_len(packet: bytearray) -> int:
    return len(packet) - HEAD4.size - (_TCP if packet[9] == TCP else _UDP).size


def _lose(_packet: bytearray) -> None:
    """Nothing comes back."""


def _join(engine: Engine, packets: list[bytearray]) -> float:
    """Join packets to the first, as long as they may; return ns for each, 0 if they may not at all."""
    train, *others = packets
    joined = 0
    began = time.thread_time_ns()
    for packet in others:
        if not engine.join(train, packet, MAX_TRAIN):
            break
        joined += 1
    return (time.thread_time_ns() - began) / joined if joined else 0


def _ip4(protocol: int, size: int) -> bytes:
    return _IP4.pack(0x45, size, 0, _DF, 64, protocol, 0, IPv4Address(INNER4_CALLER).packed, SERVER)


def _tcp(size: int) -> bytearray:
    """A large segment, as a kernel hands it to a device that can cut it."""
    payload = os.urandom(size - HEAD4.size - _TCP.size)
    return bytearray(_ip4(TCP, size) + _TCP.pack(40_000, 443, 1, 1, 5 << 4, _ACK, 500, 0, 0) + payload)


def _udp(size: int, port: int) -> bytearray:
    """A datagram without a checksum, of a flow of its own."""
    length = size - HEAD4.size
    return bytearray(_ip4(UDP, size) + _UDP.pack(port, 443, length, 0) + os.urandom(length - _UDP.size))
