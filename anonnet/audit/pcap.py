"""Captures as arrays: one row an IP packet, no dissection packet by packet.

Reads classic pcap (microseconds or nanoseconds, either byte order) with link types Ethernet, Linux cooked
(v1 and v2, what `tcpdump -i any` writes) and raw IP: https://www.tcpdump.org/linktypes.html. A million
packets take about a second.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anonnet.errors import OperatorError

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]

_GLOBAL_LEN: Final = 24
_RECORD_LEN: Final = 16
_MAGIC: Final = {0xA1B2C3D4: 1000, 0xA1B23C4D: 1}  # -> nanoseconds per unit of the fraction
_IP_AT: Final = {1: (14, 12), 113: (16, 14), 276: (20, 0), 101: (0, None), 228: (0, None), 229: (0, None)}
_SLICE: Final = 64  # bytes of a record that are looked at: SLL2, IPv6 and ports
_PORTS: Final = (6, 17)  # protocols whose header starts with ports
_MAPPED: Final = int(IPv6Address("::ffff:0:0"))  # IPv4 addresses are kept as IPv4-mapped (RFC 4291 2.5.5.2)


@dataclass(frozen=True, slots=True)
class Trace:
    """Packets in order of capture; every array has one entry a packet.

    time: ns since the epoch. length: of the whole IP packet, bytes; of a frame that is not IP, as captured.
    version: 4, 6, or 0 for a frame that is not IP. src, dst: (n, 16) bytes, IPv4 as IPv4-mapped.
    proto: IP protocol number; -1 if not IP. sport, dport: of TCP and UDP, else 0.
    """

    time: Ints
    length: Ints
    version: Ints
    proto: Ints
    src: Bytes
    dst: Bytes
    sport: Ints
    dport: Ints

    def __len__(self) -> int:
        return len(self.time)

    def where(self, mask: NDArray[np.bool_]) -> Trace:
        """Return the packets for which the mask holds."""
        return Trace(*(getattr(self, name)[mask] for name in self.__slots__))

    def sent_from(self, address: str) -> NDArray[np.bool_]:
        """Return a mask of packets whose source is an address or in a network (`100.64.0.0/10`)."""
        return _within(self.src, address)

    def sent_to(self, address: str) -> NDArray[np.bool_]:
        """Return a mask of packets whose destination is an address or in a network."""
        return _within(self.dst, address)

    def between(self, src: str, dst: str) -> Trace:
        """Return the packets from one address or network to another."""
        return self.where(self.sent_from(src) & self.sent_to(dst))


def read(path: Path) -> Trace:
    """Read a capture file; OperatorError if it is not one, or its link type is unknown."""
    return parse(path.read_bytes(), str(path))


def parse(data: bytes, source: str = "capture") -> Trace:
    """Read a capture from memory. A last record that is cut short is left out."""
    order, unit = _byte_order(data, source)
    link_type = struct.unpack_from(f"{order}I", data, 20)[0] & 0xFFFF
    if link_type not in _IP_AT:
        raise OperatorError(f"{source}: unknown link type {link_type}", "capture an Ethernet or IP interface")
    starts = _record_starts(data, order)
    whole = np.frombuffer(data + bytes(_RECORD_LEN + _SLICE), np.uint8)
    head = _heads(whole, starts, order)
    rows = whole[starts[:, None] + _RECORD_LEN + np.arange(_SLICE)]
    rows = np.where(np.arange(_SLICE) < head[:, 2:3], rows, 0).astype(np.uint8)  # nothing beyond the record
    return _decode(head[:, 0] * 10**9 + head[:, 1] * unit, head[:, 3], rows, link_type)


def trim(path: Path, start: int, stop: int) -> int:
    """Keep only the packets of a capture file from `start` until before `stop` (ns); return how many."""
    data = path.read_bytes()
    order, unit = _byte_order(data, str(path))
    starts = _record_starts(data, order)
    head = _heads(np.frombuffer(data, np.uint8), starts, order)
    times = head[:, 0] * 10**9 + head[:, 1] * unit
    ends = starts + _RECORD_LEN + head[:, 2]
    kept = np.flatnonzero((times >= start) & (times < stop))
    with path.open("wb") as file:
        file.write(data[:_GLOBAL_LEN])
        # Packets are all but in order of time, so what is kept is a few runs of records.
        for run in np.split(kept, np.flatnonzero(np.diff(kept) > 1) + 1):
            if len(run):
                file.write(data[starts[run[0]] : ends[run[-1]]])
    return len(kept)


def _byte_order(data: bytes, source: str) -> tuple[str, int]:
    """Return struct's mark for the byte order, and the nanoseconds that one unit of fraction stands for."""
    for order in "<>":
        unit = _MAGIC.get(struct.unpack_from(f"{order}I", data)[0]) if len(data) >= _GLOBAL_LEN else None
        if unit:
            return order, unit
    raise OperatorError(f"{source} is not a pcap file", "capture with: anonnet-tun lab capture")


def _heads(whole: Bytes, starts: Ints, order: str) -> Ints:
    """Return (n, 4): seconds, fraction, bytes captured, bytes on the wire."""
    head = whole[starts[:, None] + np.arange(_RECORD_LEN)].view(f"{order}u4")
    wide: Ints = head.astype(np.int64).reshape(-1, 4)
    return wide


def _record_starts(data: bytes, order: str) -> Ints:
    """Follow the chain of records: the one step that has to go packet by packet."""
    captured = struct.Struct(f"{order}I").unpack_from
    starts, at, end = [], _GLOBAL_LEN, len(data)
    while at + _RECORD_LEN <= end:
        after = at + _RECORD_LEN + captured(data, at + 8)[0]
        if after > end:
            break
        starts.append(at)
        at = after
    return np.array(starts, np.int64)


def _decode(time: Ints, wire_length: Ints, rows: Bytes, link_type: int) -> Trace:
    ip_at, type_at = _IP_AT[link_type]
    ip = np.pad(rows[:, ip_at:], ((0, 0), (0, ip_at)))
    version = (ip[:, 0] >> 4).astype(np.int64)
    if type_at is not None:
        ether_type = _u16(rows, type_at)
        version = np.where(ether_type == 0x0800, 4, np.where(ether_type == 0x86DD, 6, 0))
    four, six = version == 4, version == 6
    version = np.where(four | six, version, 0)
    length = np.where(four, _u16(ip, 2), np.where(six, _u16(ip, 4) + 40, wire_length))
    proto = np.where(four, ip[:, 9].astype(np.int64), np.where(six, ip[:, 6].astype(np.int64), -1))
    mapped = np.frombuffer(_MAPPED.to_bytes(16, "big")[:12], np.uint8)
    ends = []
    for at4, at6 in ((12, 8), (16, 24)):
        as_mapped = np.concatenate([np.broadcast_to(mapped, (len(ip), 12)), ip[:, at4 : at4 + 4]], axis=1)
        ends.append(np.where(four[:, None], as_mapped, np.where(six[:, None], ip[:, at6 : at6 + 16], 0)))
    ports_at = np.where(four, (ip[:, 0] & 15).astype(np.int64) * 4, 40)
    has_ports = np.isin(proto, _PORTS) & (ports_at + 4 <= _SLICE)
    ports_at = np.where(has_ports, ports_at, 0)
    each = np.arange(len(ip))
    ports = ip[each[:, None], ports_at[:, None] + np.arange(4)]
    sport, dport = (np.where(has_ports, _u16(ports, at), 0) for at in (0, 2))
    src, dst = (end.astype(np.uint8) for end in ends)
    return Trace(time, length, version, proto, src, dst, sport, dport)


def _u16(rows: Bytes, at: int) -> Ints:
    return rows[:, at].astype(np.int64) * 256 + rows[:, at + 1]


def _within(ends: Bytes, text: str) -> NDArray[np.bool_]:
    """Compare the leading bits of each address with those of a network."""
    network = ip_network(text) if "/" in text else ip_network(ip_address(text))
    if isinstance(network, IPv6Network):
        first, bits = int(network.network_address), network.prefixlen
    else:
        first, bits = _MAPPED | int(network.network_address), network.prefixlen + 96
    prefix = np.frombuffer(first.to_bytes(16, "big"), np.uint8)
    mask = np.frombuffer(((1 << 128) - (1 << (128 - bits))).to_bytes(16, "big"), np.uint8)
    result: NDArray[np.bool_] = ((ends & mask) == prefix).all(axis=1)
    return result
