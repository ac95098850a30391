"""Reading and writing a TUN (Linux, Documentation/networking/tuntap.rst), with segmentation offload.

A device that was made with IFF_VNET_HDR (tun.device) puts a `struct virtio_net_hdr` (<linux/virtio_net.h>)
before each packet. With it the kernel leaves checksums to us and hands over TCP segments of up to 64 KiB,
and takes both in. On this side of it packets are what proto.train says. What comes segment by segment, as it
does from the Internet to an exit, is joined as it is read: all that follows is done once for each train.
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Final

import pytun

from anonnet.proto.rewrite import CHECKSUM_AT, TCP, U16
from anonnet.proto.train import Complete, Join, complete, couple, cut, join, pseudo_sum, segment_of, tcp_at
from anonnet.spec import MAX_TRAIN, TUN_MTU

PACKETS: Final = 64  # read at once, ...
READ_BYTES: Final = 262_144  # ... until they come to so much: a tick must not wait for more
PACKET_LEN: Final = 65_536
_TUNGETIFF: Final = 0x800454D2  # <linux/if_tun.h>
_HEADER: Final = struct.Struct("=BBHHHH")  # flags, GSO type, header length, GSO size, checksum start, offset
_NEEDS_CSUM: Final = 1
_TCPV4, _TCPV6, _ECN = 1, 4, 0x80
_NOTHING: Final = bytes(_HEADER.size)
_IFREQ_LEN: Final = 40
_FLAGS: Final = struct.Struct("=16xH")


class TunFile:
    """An open TUN, or what stands for one. It does not own the descriptor, which must not block."""

    def __init__(self, fd: int, complete: Complete = complete, join: Join = join) -> None:
        self.fd = fd
        self._complete = complete
        self._join = join
        self._offload = _has_header(fd)
        self._header = bytearray(_HEADER.size)
        self._packet = bytearray(PACKET_LEN)
        self._parts = [self._header, self._packet]

    def read(self) -> list[bytearray]:
        """Return packets that wait, if any, with whole checksums, and trains. OSError: the device is gone."""
        packets: list[bytearray] = []
        left = READ_BYTES
        try:
            for _ in range(PACKETS):
                if left <= 0:
                    break
                if self._offload:
                    size = os.readv(self.fd, self._parts) - _HEADER.size
                    left -= size
                    found = self._taken(self._packet[:size])
                else:
                    found = [bytearray(os.read(self.fd, PACKET_LEN))]
                if not (packets and len(found) == 1 and self._join(packets[-1], found[0], MAX_TRAIN)):
                    packets += found
        except BlockingIOError:
            pass
        return packets

    def _taken(self, packet: bytearray) -> list[bytearray]:
        """The packets in what the kernel handed over: a train, or as many segments as cannot be one."""
        flags, kind, _, segment, start, offset = _HEADER.unpack(self._header)
        if kind & ~_ECN in (_TCPV4, _TCPV6):
            return [packet] if couple(packet, segment) else cut(packet, segment, 0)
        if flags & _NEEDS_CSUM and start + offset + 2 <= len(packet):
            self._complete(packet, start, offset)
        return [packet]

    def write(self, packet: bytearray) -> None:
        """Hand a packet or a sound train to the kernel. OSError: no room, or not to the kernel's taste."""
        if not self._offload:
            for piece in _plain(packet):
                os.write(self.fd, piece)
        elif len(packet) <= TUN_MTU:
            os.writev(self.fd, (_NOTHING, packet))
        else:
            os.writev(self.fd, (_given(packet), packet))


def _has_header(fd: int) -> bool:
    request = bytearray(_IFREQ_LEN)
    try:
        fcntl.ioctl(fd, _TUNGETIFF, request)
    except OSError:  # no TUN: in tests
        return False
    return bool(_FLAGS.unpack_from(request)[0] & pytun.IFF_VNET_HDR)


def _given(train: bytearray) -> bytes:
    """The header of a train, whose checksum becomes the sum that the kernel goes on from."""
    at = tcp_at(train)
    segment = segment_of(train, at)
    U16.pack_into(train, at + CHECKSUM_AT[TCP], pseudo_sum(train, TCP, len(train) - at))
    kind = _TCPV4 if train[0] >> 4 == 4 else _TCPV6
    head = at + (train[at + 12] >> 4) * 4
    return _HEADER.pack(_NEEDS_CSUM, kind, head, segment, at, CHECKSUM_AT[TCP])


def _plain(packet: bytearray) -> list[bytearray]:
    return [packet] if len(packet) <= TUN_MTU else cut(packet, segment_of(packet, tcp_at(packet)), 0)
