"""Trains: segments of one TCP connection, carried as one packet (docs/protocol.md section 6).

A kernel hands large TCP segments to a device that says it can cut them, and takes such ones in. Carried whole
they need one header for all, one turn at each end and one look at a TUN. So a circuit carries packets longer
than TUN_MTU, up to MAX_TRAIN bytes: IP and TCP headers, with the lengths of the whole, and the payload of
several segments. Each segment has a checksum of its own, which its last kernel computes; the train's field
for it holds the size of the segments' payload instead (the last may be shorter).

    from the TUN --couple--> a train of up to 64 KiB --cut--> trains and packets fit for a circuit
    waiting for cells: --join--> what waits next to each other and belongs together
    from a circuit --sound--> as it is to the TUN, whose kernel cuts it, if it goes on at all as segments
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, TypeAlias

from anonnet.proto.rewrite import CHECKSUM4_AT, CHECKSUM_AT, HEAD4, HEAD6, TCP, U16, Packet, upper_layer
from anonnet.spec import MAX_TRAIN, SEGMENT_LEAST, TUN_MTU

_HEADER_LEN: Final = 20  # TCP's, without options
_FLAGS_AT: Final = 13
_FIN, _SYN, _RST, _PSH, _ACK, _URG, _CWR = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x80
_FRAGMENT: Final = 0xBFFF  # more fragments, an offset, or the reserved flag
_DF: Final = 0x40
_PLAIN4: Final = 0x45  # version 4, no options
# What segments of one train have in common, before TCP's options; what most often differs comes second.
_SAME4: Final = (slice(0, 2), slice(12, 24), slice(6, 10), slice(28, 33), slice(34, 36))
_SAME6: Final = (slice(0, 4), slice(8, 44), slice(6, 8), slice(48, 53), slice(54, 56))
_SEQUENCE: Final = struct.Struct(">I")
_WHOLE: Final = 0xFFFF  # what is coupled for the way from a TUN to a circuit may be as long as IP allows

Join: TypeAlias = Callable[[bytearray, bytearray, int], bool]
Complete: TypeAlias = Callable[[bytearray, int, int], None]


def sum16(data: bytes | Packet) -> int:
    """Return the ones' complement sum of 16-bit words, as far as it matters: modulo 65535."""
    number = int.from_bytes(data)
    return (number << 8 if len(data) & 1 else number) % 0xFFFF


def pseudo_sum(packet: Packet, protocol: int, length: int) -> int:
    """Return the sum over the pseudo-header of `length` bytes of an upper layer, in 16 bits."""
    addresses = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
    total = sum16(addresses) + protocol + length
    return (total & 0xFFFF) + (total >> 16)


def couple(packet: bytearray, segment: int) -> bool:
    """Make a train of a kernel's large segment, in place; False, unchanged, if it cannot be one.

    `segment`: how many bytes of payload each segment is to have.
    """
    at = _tcp_at(packet)
    if at is None or not _may_be_train(packet, at, segment, _WHOLE):
        return False
    U16.pack_into(packet, at + CHECKSUM_AT[TCP], segment)
    return True


def sound(train: Packet) -> bool:
    """Tell whether a packet longer than TUN_MTU, which may come from anybody, is a train."""
    at = _tcp_at(train)
    return at is not None and _may_be_train(train, at, segment_of(train, at), MAX_TRAIN)


def segment_of(train: Packet, at: int) -> int:
    """Return the size of a train's segments; `at`: where its TCP header is."""
    return int(U16.unpack_from(train, at + CHECKSUM_AT[TCP])[0])


def tcp_at(train: Packet) -> int:
    """Return where the TCP header of a sound train is."""
    return HEAD4.size if train[0] >> 4 == 4 else HEAD6.size


def cut(packet: bytearray, segment: int, limit: int) -> list[bytearray]:
    """Cut a large TCP segment into trains of at most `limit` bytes, and packets where that is one segment.

    `segment` as in `couple`; the packet's own field for it does not matter. Empty if there is no TCP in it.
    """
    at = _tcp_at(packet)
    if at is None or at + _HEADER_LEN > len(packet) or not segment:
        return []
    head = at + (packet[at + 12] >> 4) * 4
    if not at + _HEADER_LEN <= head <= len(packet):
        return []
    step = max(1, (limit - head) // segment) * segment
    return [_piece(packet, at, head, start, min(start + step, len(packet)), segment)
            for start in range(head, len(packet), step)]  # fmt: skip


def join(train: bytearray, packet: bytearray, limit: int) -> bool:
    """Append a packet or train that goes on where another ends; False, with both unchanged, if it may not.

    `train` may be a single packet too; both have sound IP headers. Nothing is joined that tells anything but
    how the payload goes on, nor beyond `limit` bytes. As in a kernel's GRO, a packet whose checksum is wrong
    stays what it is: its segment would get a right one.
    """
    size, four = len(train), train[0] == _PLAIN4
    at, same = (HEAD4.size, _SAME4) if four else (HEAD6.size, _SAME6)
    if min(size, len(packet)) < at + _HEADER_LEN or train[same[1]] != packet[same[1]]:
        return False
    if train[6] != _DF or train[7] or train[9] != TCP if four else train[0] >> 4 != 6 or train[6] != TCP:
        return False
    head = at + (train[at + 12] >> 4) * 4
    end = size + len(packet) - head
    if not at + _HEADER_LEN <= head < min(size, len(packet)) or not TUN_MTU < end <= limit:
        return False
    if any(train[field] != packet[field] for field in (*same, slice(at + _HEADER_LEN, head))):
        return False
    flags = train[at + _FLAGS_AT] | packet[at + _FLAGS_AT]
    if flags & ~(_ACK | _PSH | _FIN) or train[at + _FLAGS_AT] & _FIN:
        return False
    (sequence,) = _SEQUENCE.unpack_from(train, at + 4)
    if (sequence + size - head) & 0xFFFFFFFF != _SEQUENCE.unpack_from(packet, at + 4)[0]:
        return False
    segment = segment_of(train, at) if size > TUN_MTU else size - head
    more = segment_of(packet, at) if len(packet) > TUN_MTU else len(packet) - head
    if segment < SEGMENT_LEAST or (size - head) % segment or more > segment:
        return False
    if len(packet) > TUN_MTU and more != segment:
        return False
    if not all(len(one) > TUN_MTU or _right(one, at) for one in (train, packet)):
        return False
    train += packet[head:]
    train[at + _FLAGS_AT] = flags
    _set_length(train, at)
    U16.pack_into(train, at + CHECKSUM_AT[TCP], segment)
    return True


def _right(packet: Packet, at: int) -> bool:
    """Whether a whole TCP packet's checksum is right."""
    return (pseudo_sum(packet, TCP, len(packet) - at) + sum16(packet[at:])) % 0xFFFF == 0


def _set_length(packet: bytearray, at: int) -> None:
    """Make the IP header say how long the packet is; `at`: where its TCP header is."""
    size = len(packet)
    if packet[0] >> 4 == 4:
        U16.pack_into(packet, 2, size)
        U16.pack_into(packet, CHECKSUM4_AT, 0)
        U16.pack_into(packet, CHECKSUM4_AT, sum16(packet[:at]) ^ 0xFFFF)
    else:
        U16.pack_into(packet, 4, size - HEAD6.size)


def _tcp_at(packet: Packet) -> int | None:
    """Where the TCP header of a packet is; None of a fragment, or of what has none."""
    size = len(packet)
    version = packet[0] >> 4 if size else 0
    if version == 4 and size >= HEAD4.size:
        whole = packet[9] == TCP and not U16.unpack_from(packet, 6)[0] & _FRAGMENT
        return (packet[0] & 15) * 4 if whole and packet[0] & 15 >= 5 else None
    if version == 6 and size >= HEAD6.size:
        found = upper_layer(packet, packet[6])
        return found[1] if found is not None and found[0] == TCP else None
    return None


def _may_be_train(packet: Packet, at: int, segment: int, longest: int) -> bool:
    size = len(packet)
    four = packet[0] >> 4 == 4
    if at != (HEAD4.size if four else HEAD6.size) or (four and packet[0] != _PLAIN4):
        return False
    if U16.unpack_from(packet, 2 if four else 4)[0] != (size if four else size - HEAD6.size):
        return False
    if at + _HEADER_LEN > size or packet[at + _FLAGS_AT] & (_SYN | _RST | _URG):
        return False
    head = at + (packet[at + 12] >> 4) * 4
    if not at + _HEADER_LEN <= head < size - segment or segment < SEGMENT_LEAST:
        return False
    return TUN_MTU < size <= longest and head + segment <= TUN_MTU


def _piece(packet: bytearray, at: int, head: int, start: int, stop: int, segment: int) -> bytearray:
    """A train or packet with the payload from `start` to `stop`."""
    piece = packet[:head] + packet[start:stop]
    size = len(piece)
    _SEQUENCE.pack_into(piece, at + 4, (_SEQUENCE.unpack_from(piece, at + 4)[0] + start - head) & 0xFFFFFFFF)
    if stop < len(packet):
        piece[at + _FLAGS_AT] &= ~(_FIN | _PSH)
    if start > head:
        piece[at + _FLAGS_AT] &= ~_CWR
    if piece[0] >> 4 == 4 and not piece[6] & _DF:  # with DF an id means nothing (RFC 6864)
        U16.pack_into(piece, 4, (U16.unpack_from(piece, 4)[0] + (start - head) // segment) & 0xFFFF)
    _set_length(piece, at)
    if size > TUN_MTU:
        U16.pack_into(piece, at + CHECKSUM_AT[TCP], segment)
    else:
        U16.pack_into(piece, at + CHECKSUM_AT[TCP], pseudo_sum(piece, TCP, size - at))
        complete(piece, at, CHECKSUM_AT[TCP])
    return piece


def complete(packet: bytearray, start: int, offset: int) -> None:
    """Finish a checksum: its field, `offset` after `start`, holds the pseudo-header's sum so far."""
    U16.pack_into(packet, start + offset, sum16(packet[start:]) ^ 0xFFFF)  # never 0, which UDP has a use for
