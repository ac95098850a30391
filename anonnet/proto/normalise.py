"""What the caller takes out of its host's packets before they enter a circuit (docs/protocol.md section 7).

The exit and the servers behind it see the caller's IP and TCP headers. Fields that tell one host from
another, or one host again, are set to what every caller sends:

- Source address: a packet with any but the inner one is dropped. An application that bound itself to a
  LAN address would tell the exit that address.
- IPv4 TTL and IPv6 hop limit: 64 if above 32. The start value tells the system, the rest the hops behind
  the caller. Small ones are kept: they are traceroute's.
- IPv4 DSCP and ECN, IPv6 traffic class: 0. They tell applications and sysctls; ECN 0 is "not capable",
  which RFC 3168 always allows. ECN flags of a SYN are cleared to match.
- IPv6 flow label: 0, which RFC 6437 allows; else it is a hash keyed by the host.
- IPv4 id: 0 in a packet that is no fragment and cannot become one (DF), where RFC 6864 leaves it free.
  Elsewhere it must stay unique for a while and the same in all fragments of a packet, so it is permuted by a
  secret of this run. Its counters link flows (Bellovin 2002; Klein and Pinkas 2019).
- IPv4 reserved flag: 0 (RFC 791).
- IPv4 options: the packet is dropped. Record route, timestamp and source route tell addresses, and routers
  tend to drop them anyway (RFC 7126).
- TCP options of a SYN other than segment size, window scale and SACK: overwritten with NOP; what a SYN does
  not offer is not used later. Timestamps show the clock's skew (Kohno et al. 2005), Fast Open cookies link
  connections, Multipath TCP tells the host's other addresses.

Not changed: TCP window and MSS (set by the tunnel's MTU and the kernel's defaults), source ports, ICMP ids,
anything above. docs/threats.md says what that leaves.

Checksums are updated as in proto.rewrite.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from anonnet.proto.rewrite import (
    FRAGMENT_OFFSET,
    HEAD4,
    HEAD6,
    SOURCE6,
    TCP,
    Packet,
    destination,
    upper_layer,
)
from anonnet.spec import INNER4_CALLER, INNER6_CALLER

HOPS: Final = 64
TRACEROUTE_HOPS: Final = 32  # up to here a hop limit is taken to be meant

# version, header length and class; total length; id; flags and fragment; TTL and protocol; checksum; source
_WORDS4: Final = struct.Struct(">HHHHHHI")
_WORD6: Final = struct.Struct(">IHBB")  # version, class and flow label; length; next header; hop limit
_VERSION6: Final = 6 << 28
_PLAIN4: Final = 0x4500
_DF: Final = 0x4000
_MF: Final = 0x2000

_TCP_HEADER_LEN: Final = 20
_SYN: Final = 0x02
_ECE_CWR: Final = 0xC0
_END: Final = 0
_NOP: Final = 1
_KEPT_OPTIONS: Final = {_NOP, 2, 3, 4}  # maximum segment size, window scale, SACK permitted

_INNER4: Final = int(IPv4Address(INNER4_CALLER))
_INNER6: Final = IPv6Address(INNER6_CALLER).packed
_INNERS: Final = {IPv4Address(INNER4_CALLER).packed, _INNER6}


class Normaliser:
    """The caller's gate to its circuits. `random` gives the secret that permutes IPv4 ids."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._rounds = [random(256) for _ in range(4)]

    def outward(self, packet: Packet) -> bool:
        """Normalise a packet of the host's in place; False, unchanged, if it must not leave."""
        size = len(packet)
        version = packet[0] >> 4 if size else 0
        if version == 4:
            return size >= HEAD4.size and self._outward4(packet, size)
        return version == 6 and size >= HEAD6.size and _outward6(packet)

    def inward(self, packet: Packet) -> bool:
        """Tell whether a packet from the exit is for the caller's inner address, hence may enter the host."""
        return destination(packet) in _INNERS

    def _outward4(self, packet: Packet, size: int) -> bool:
        head, total, ident, fragment, hops, checksum, source = _WORDS4.unpack_from(packet)
        if head >> 8 != _PLAIN4 >> 8 or total != size or source != _INNER4:
            return False
        new_fragment = fragment & 0x7FFF
        atomic = fragment & _DF and not fragment & (_MF | FRAGMENT_OFFSET)
        new_ident = 0 if atomic else self._permuted(ident)
        new_hops = hops if hops >> 8 <= TRACEROUTE_HOPS else HOPS << 8 | hops & 0xFF
        if hops & 0xFF == TCP and not fragment & FRAGMENT_OFFSET and not _clean_syn(packet, HEAD4.size):
            return False
        # RFC 1624, equation 3, over the words that changed
        gained = (0x3FFFC - head - ident - fragment - hops) + (_PLAIN4 + new_ident + new_fragment + new_hops)
        gained += checksum ^ 0xFFFF
        gained = (gained & 0xFFFF) + (gained >> 16)
        checksum = ((gained & 0xFFFF) + (gained >> 16)) ^ 0xFFFF
        _WORDS4.pack_into(packet, 0, _PLAIN4, total, new_ident, new_fragment, new_hops, checksum, source)
        return True

    def _permuted(self, ident: int) -> int:
        """Map an id to another, one to one: four Feistel rounds with random functions (Luby, Rackoff)."""
        left, right = ident >> 8, ident & 0xFF
        for table in self._rounds:
            left, right = right, left ^ table[right]
        return left << 8 | right


def _outward6(packet: Packet) -> bool:
    if bytes(packet[SOURCE6]) != _INNER6:
        return False
    _, length, following, hops = _WORD6.unpack_from(packet)
    if length + HEAD6.size != len(packet):
        return False
    found = upper_layer(packet, following)
    if found is None or (found[0] == TCP and not _clean_syn(packet, found[1])):
        return False
    _WORD6.pack_into(packet, 0, _VERSION6, length, following, hops if hops <= TRACEROUTE_HOPS else HOPS)
    return True


def _clean_syn(packet: Packet, at: int) -> bool:
    """Clean the options and ECN flags of a SYN whose TCP header is at `at`; False if it is malformed."""
    if at + _TCP_HEADER_LEN > len(packet):
        return False
    flags = packet[at + 13]
    if not flags & _SYN:
        return True
    end = at + (packet[at + 12] >> 4) * 4
    if end < at + _TCP_HEADER_LEN or end > len(packet):
        return False
    header = bytearray(packet[at:end])
    header[12] &= 0xF0  # reserved, and the third flag of accurate ECN
    header[13] &= ~_ECE_CWR
    if not _clean_options(header):
        return False
    words = struct.Struct(f">{len(header) // 2}H")
    total = sum(words.unpack(header)) + sum(word ^ 0xFFFF for word in words.unpack_from(packet, at))
    total += int.from_bytes(header[16:18], "big") ^ 0xFFFF
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    header[16:18] = (total ^ 0xFFFF).to_bytes(2, "big")
    packet[at:end] = header
    return True


def _clean_options(header: bytearray) -> bool:
    at = _TCP_HEADER_LEN
    while at < len(header) and header[at] != _END:
        kind = header[at]
        length = 1 if kind == _NOP else header[at + 1] if at + 1 < len(header) else 0
        if not length or (kind != _NOP and length < 2) or at + length > len(header):
            return False
        if kind not in _KEPT_OPTIONS:
            header[at : at + length] = bytes([_NOP]) * length
        at += length
    header[at:] = bytes(len(header) - at)  # whatever lay behind the end of the options
    return True
