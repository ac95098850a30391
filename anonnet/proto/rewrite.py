"""The exit's address rewriting (docs/protocol.md section 7): inner <-> pool addresses.

Every caller has the same inner addresses (spec.INNER*), so the exit gives each circuit an address of its
pool and changes packets in place on their way through its TUN; source NAT to the Internet is the kernel's.

Checksums are updated, never computed (RFC 1624, equation 3: HC' = ~(~HC + ~m + m')), so one that was wrong
stays wrong and the ends find out. The sum ~m + m' over an address is the same for all packets of a
direction: `delta`. Where two changes cancel, nothing is written: an IPv4 header's sum does not change with
its address, because its checksum changes against it; likewise an embedded packet's, where its checksum
covers its addresses and is there.

A train (proto.train) has no checksum but its IPv4 header's.

A packet that is malformed, that does not carry the address it must (a caller's spoofed source), or whose
IPv6 routing header would still change its destination, is refused, unchanged.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeAlias

from anonnet.spec import INNER4_CALLER, INNER6_CALLER, TUN_MTU

Packet: TypeAlias = bytearray | memoryview

HEAD4: Final = struct.Struct(">BxHxxHxBH8x")  # version · length, total length, fragment, protocol, checksum
HEAD6: Final = struct.Struct(">BxxxHBx32x")  # version · class, payload length, next header
U16: Final = struct.Struct(">H")
CHECKSUM4_AT: Final = 10
SOURCE4, DESTINATION4 = slice(12, 16), slice(16, 20)
SOURCE6, DESTINATION6 = slice(8, 24), slice(24, 40)

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
DCCP: Final = 33
ICMP6: Final = 58
UDP_LITE: Final = 136
# Where the checksum is, of protocols whose checksum covers a pseudo-header. SCTP's, GRE's and ESP's do not.
CHECKSUM_AT: Final = {TCP: 16, UDP: 6, DCCP: 6, UDP_LITE: 6}
CHECKSUM6_AT: Final = {**CHECKSUM_AT, ICMP6: 2}
ZERO_MEANS_NONE: Final = {UDP, UDP_LITE}  # a computed 0 is sent as 0xFFFF (RFC 768, 8200, 3828)

ERRORS4: Final = {3, 4, 5, 11, 12}  # ICMP types that embed a packet (RFC 792)
ERRORS6: Final = {1, 2, 3, 4}  # RFC 4443
ICMP_HEADER_LEN: Final = 8

HOP_BY_HOP: Final = 0
ROUTING: Final = 43
FRAGMENT: Final = 44
DESTINATION_OPTIONS: Final = 60
OPTION_HEADERS: Final = {HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS}
OPAQUE: Final = -1  # no upper-layer header here: a later fragment

FRAGMENT_OFFSET: Final = 0x1FFF

# A quick way for plain TCP and UDP, so nearly all: (packet, where the address is, old, new, delta) -> done.
Plain: TypeAlias = Callable[[bytearray, int, bytes, bytes, int], bool]


def nothing_plain(_packet: bytearray, _at: int, _old: bytes, _new: bytes, _delta: int) -> bool:
    """No quick way."""
    return False


class Rewriter:
    """Both directions of one circuit's mapping. `pool4` and `pool6` are packed addresses (4, 16 bytes).

    `outward` takes a caller's packet to the Internet, `inward` one from the Internet to the caller; both
    return False, with the packet unchanged, if it must be dropped. Any other return has changed it in place.
    """

    def __init__(self, pool4: bytes, pool6: bytes, plain: Plain = nothing_plain) -> None:
        self._plain = plain
        inner4 = IPv4Address(INNER4_CALLER).packed
        inner6 = IPv6Address(INNER6_CALLER).packed
        self._out4 = _Change(inner4, pool4, SOURCE4, DESTINATION4)
        self._out6 = _Change(inner6, pool6, SOURCE6, DESTINATION6)
        self._in4 = _Change(pool4, inner4, DESTINATION4, SOURCE4)
        self._in6 = _Change(pool6, inner6, DESTINATION6, SOURCE6)

    def outward(self, packet: bytearray) -> bool:
        """Change the caller's source address into the pool's."""
        return self._change(packet, self._out4, self._out6)

    def inward(self, packet: bytearray) -> bool:
        """Change the pool's destination address into the caller's."""
        return self._change(packet, self._in4, self._in6)

    def _change(self, packet: bytearray, change4: _Change, change6: _Change) -> bool:
        change = change4 if packet and packet[0] >> 4 == 4 else change6
        if self._plain(packet, change.field.start, change.old, change.new, change.delta):
            return True
        return _rewrite(packet, change4, change6)


def destination(packet: bytes | Packet) -> bytes | None:
    """Return the packed destination address of a packet, by which an exit finds its circuit; None if none."""
    size = len(packet)
    version = packet[0] >> 4 if size else 0
    if version == 4 and size >= HEAD4.size:
        return bytes(packet[16:20])
    if version == 6 and size >= HEAD6.size:
        return bytes(packet[24:40])
    return None


class _Change:
    """One direction and IP version: `old` becomes `new` in `field`.

    In the packet that an ICMP error embeds, which went the other way, it does so in `mirror`.
    """

    __slots__ = ("delta", "field", "mirror", "new", "old", "undo")

    def __init__(self, old: bytes, new: bytes, field: slice, mirror: slice) -> None:
        self.old, self.new = old, new
        self.field, self.mirror = field, mirror
        words = struct.Struct(f">{len(old) // 2}H")
        total = sum(words.unpack(new)) + sum(word ^ 0xFFFF for word in words.unpack(old))
        self.delta = _fold(total)  # what a sum over the address gains
        self.undo = self.delta ^ 0xFFFF  # what a checksum over it gains


def _fold(total: int) -> int:
    """Bring a sum of 16-bit words into 16 bits, by end-around carries."""
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _adjusted(checksum: int, delta: int) -> int:
    """Return a checksum for data whose sum has gained `delta` (16 bits)."""
    total = (checksum ^ 0xFFFF) + delta
    return ((total & 0xFFFF) + (total >> 16)) ^ 0xFFFF


def _adjust_at(packet: Packet, at: int, protocol: int, delta: int) -> bool:
    """Adjust the upper-layer checksum at `at`; False if the packet has none."""
    (checksum,) = U16.unpack_from(packet, at)
    if protocol in ZERO_MEANS_NONE:
        if not checksum:
            return False
        U16.pack_into(packet, at, _adjusted(checksum, delta) or 0xFFFF)
    else:
        U16.pack_into(packet, at, _adjusted(checksum, delta))
    return True


def _rewrite(packet: Packet, change4: _Change, change6: _Change) -> bool:
    version = packet[0] >> 4 if len(packet) else 0
    if version == 4:
        return _rewrite4(packet, change4)
    return version == 6 and _rewrite6(packet, change6)


# -- IPv4 -----------------------------------------------------------------------------------------


def _rewrite4(packet: Packet, change: _Change) -> bool:
    size = len(packet)
    if size < HEAD4.size or bytes(packet[change.field]) != change.old:
        return False
    lengths, total, fragment, protocol, checksum = HEAD4.unpack_from(packet)
    header = (lengths & 15) << 2
    if total != size or not HEAD4.size <= header <= size:
        return False
    if size <= TUN_MTU and not fragment & FRAGMENT_OFFSET:
        if (offset := CHECKSUM_AT.get(protocol)) is not None:
            if header + offset + 2 > size:
                return False
            _adjust_at(packet, header + offset, protocol, change.delta)
        elif protocol == ICMP and not _rewrite_icmp4(packet, header, change):
            return False
    U16.pack_into(packet, CHECKSUM4_AT, _adjusted(checksum, change.delta))
    packet[change.field] = change.new
    return True


def _rewrite_icmp4(packet: Packet, at: int, change: _Change) -> bool:
    """Rewrite the packet that an ICMP error embeds; False, with nothing changed, to drop the error."""
    size = len(packet)
    if at + ICMP_HEADER_LEN > size:
        return False
    if packet[at] not in ERRORS4:
        return True
    inner = memoryview(packet)[at + ICMP_HEADER_LEN :]
    if len(inner) < HEAD4.size or bytes(inner[change.mirror]) != change.old:
        return False
    lengths, _, fragment, protocol, checksum = HEAD4.unpack_from(inner)
    header = (lengths & 15) << 2
    if lengths >> 4 != 4 or not HEAD4.size <= header <= len(inner):
        return False
    if not fragment & FRAGMENT_OFFSET and (offset := CHECKSUM_AT.get(protocol)) is not None:
        where = header + offset
        # Address and header checksum cancel out, so only this changes the sum. Often it is cut off.
        if where + 2 <= len(inner) and _adjust_at(inner, where, protocol, change.delta):
            _adjust_at(packet, at + 2, ICMP, change.undo)
    U16.pack_into(inner, CHECKSUM4_AT, _adjusted(checksum, change.delta))
    inner[change.mirror] = change.new
    return True


# -- IPv6 -----------------------------------------------------------------------------------------


def _rewrite6(packet: Packet, change: _Change) -> bool:
    size = len(packet)
    if size < HEAD6.size or bytes(packet[change.field]) != change.old:
        return False
    _, length, protocol = HEAD6.unpack_from(packet)
    if length + HEAD6.size != size or (found := upper_layer(packet, protocol)) is None:
        return False
    protocol, at = found
    if size <= TUN_MTU and (offset := CHECKSUM6_AT.get(protocol)) is not None:
        if at + offset + 2 > size:
            return False
        delta = change.delta
        if protocol == ICMP6 and packet[at] in ERRORS6:
            gained = _rewrite_embedded6(memoryview(packet)[at + ICMP_HEADER_LEN :], change)
            if gained is None:
                return False
            delta = _fold(delta + gained)
        _adjust_at(packet, at + offset, protocol, delta)
    packet[change.field] = change.new
    return True


def _rewrite_embedded6(inner: memoryview, change: _Change) -> int | None:
    """Rewrite the packet that an error embeds; return what its sum gains, None to drop the error."""
    if len(inner) < HEAD6.size or bytes(inner[change.mirror]) != change.old:
        return None
    version, _, protocol = HEAD6.unpack_from(inner)
    if version >> 4 != 6:
        return None
    gained = change.delta
    found = upper_layer(inner, protocol)
    if found is not None and (offset := CHECKSUM6_AT.get(found[0])) is not None:
        where = found[1] + offset
        if where + 2 <= len(inner) and _adjust_at(inner, where, found[0], change.delta):
            gained = 0  # address and checksum cancel out
    inner[change.mirror] = change.new
    return gained


def upper_layer(packet: Packet, protocol: int) -> tuple[int, int] | None:
    """Follow IPv6 extension headers (RFC 8200 section 4) to (protocol, offset) of what is not one.

    The protocol is OPAQUE in a later fragment. None means a chain that is cut off (a first fragment must
    hold all of it, RFC 7112), or a routing header that still has segments left (RFC 5095).
    """
    at = HEAD6.size
    while protocol in OPTION_HEADERS or protocol == FRAGMENT:
        if at + 8 > len(packet):
            return None
        following = packet[at]
        if protocol == FRAGMENT:
            if U16.unpack_from(packet, at + 2)[0] & 0xFFF8:
                return OPAQUE, at + 8
            at += 8
        else:
            if protocol == ROUTING and packet[at + 3]:
                return None
            at += (packet[at + 1] + 1) * 8
        protocol = following
    return protocol, at
