"""recvmmsg(2) and sendmmsg(2) through ctypes, on memory that is laid out once.

The structures are those of <sys/socket.h> on 64-bit Linux. UDP sends use segmentation offload
(UDP_SEGMENT, Linux 4.18): one message of many datagrams, each a fraction of a microsecond in the kernel.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from typing import Final

from anonnet.proto.inbox import NAME_LEN, STRIDE, Inbox, Outbox
from anonnet.proto.orders import Endpoint

BATCH: Final = 64  # datagrams received in one call
MSG_DONTWAIT: Final = socket.MSG_DONTWAIT
SOL_UDP: Final = 17
UDP_SEGMENT: Final = 103
MAX_SEGMENTS: Final = 52  # 52 wide datagrams fit in the 65,507 bytes of one UDP message; the kernel takes 64
IPV4_HEADER_LEN: Final = 20  # a raw IPv4 socket gives the header too; one with options is not ours

_libc: Final = ctypes.CDLL(None, use_errno=True)
_recvmmsg: Final = _libc.recvmmsg
_recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
_sendmmsg: Final = _libc.sendmmsg
_sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


class _Mmsghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint),
        ("iov", ctypes.c_void_p),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("_end_of_msghdr", ctypes.c_uint),
        ("len", ctypes.c_uint),
        ("_end_of_mmsghdr", ctypes.c_uint),
    )


_MMSGHDR_LEN: Final = ctypes.sizeof(_Mmsghdr)
assert _MMSGHDR_LEN == 64
_LENGTHS: Final = slice(_Mmsghdr.len.offset // 4, None, _MMSGHDR_LEN // 4)

_SOCKADDR4: Final = struct.Struct("=H2s4s8x")
_SOCKADDR6: Final = struct.Struct("=H2sI16sI")
_CMSG: Final = struct.pack("@QiiH6x", 18, SOL_UDP, UDP_SEGMENT, 0)


def pack_sockaddr(endpoint: Endpoint) -> bytes:
    """Return the kernel's form of an endpoint."""
    port = endpoint.port.to_bytes(2, "big")
    if endpoint.ip_version == 4:
        return _SOCKADDR4.pack(socket.AF_INET, port, socket.inet_pton(socket.AF_INET, endpoint.address))
    host = socket.inet_pton(socket.AF_INET6, endpoint.address)
    return _SOCKADDR6.pack(socket.AF_INET6, port, 0, host, 0)


def unpack_sockaddr(raw: bytes, transport: str) -> Endpoint:
    """Read what the kernel wrote; raw endpoints have no port."""
    (family,) = struct.unpack_from("=H", raw)
    if family == socket.AF_INET:
        _, port, host = _SOCKADDR4.unpack_from(raw)
    else:
        _, port, _, host, _ = _SOCKADDR6.unpack_from(raw)
    number = int.from_bytes(port, "big") if transport == "udp" else 0
    return Endpoint(transport, socket.inet_ntop(family, host), number)


class Receiver:
    """One socket's inbox: `receive` fills it and returns whether there may be more."""

    def __init__(self, sock: socket.socket, transport: str) -> None:
        self.sock = sock
        raw4 = transport == "raw" and sock.family == socket.AF_INET
        self._names = bytearray(BATCH * NAME_LEN)
        self.inbox = Inbox(BATCH, IPV4_HEADER_LEN if raw4 else 0, self._source, self._names)
        self._fd = sock.fileno()
        self._offset = self.inbox.offset
        self._transport = transport
        self._seen: dict[bytes, Endpoint] = {}
        memory = (ctypes.c_char * len(self.inbox.memory)).from_buffer(self.inbox.memory)
        names = (ctypes.c_char * len(self._names)).from_buffer(self._names)
        self._iovecs = (_Iovec * BATCH)()
        self._block = bytearray(BATCH * _MMSGHDR_LEN)
        self._headers = (_Mmsghdr * BATCH).from_buffer(self._block)
        self._lengths = memoryview(self._block).cast("I")[_LENGTHS]
        for i in range(BATCH):
            self._iovecs[i] = _Iovec(ctypes.addressof(memory) + i * STRIDE, STRIDE)
            self._headers[i].name = ctypes.addressof(names) + i * NAME_LEN
            self._headers[i].namelen = NAME_LEN
            self._headers[i].iov = ctypes.addressof(self._iovecs[i])
            self._headers[i].iovlen = 1
        self._address = ctypes.addressof(self._headers)

    def receive(self, limit: int = BATCH) -> bool:
        """Fill the inbox with what has come; True when `limit` datagrams came and more may wait."""
        count = _recvmmsg(self._fd, self._address, limit, MSG_DONTWAIT, None)
        if count <= 0:
            self.inbox.lengths = ()
            return False
        offset = self._offset
        lengths = self._lengths[:count].tolist()
        self.inbox.lengths = [n - offset for n in lengths] if offset else lengths
        return bool(count == limit)

    def _source(self, index: int) -> Endpoint:
        raw = bytes(self._names[index * NAME_LEN : index * NAME_LEN + NAME_LEN])
        endpoint = self._seen.get(raw)
        if endpoint is None:
            if len(self._seen) > 4096:  # strangers must not fill memory
                self._seen.clear()
            endpoint = self._seen[raw] = unpack_sockaddr(raw, self._transport)
        return endpoint


class Sender:
    """One link's outbox, addressed; a `Departure` takes what has been laid out."""

    def __init__(self, sock: socket.socket, endpoint: Endpoint, outbox: Outbox) -> None:
        self.endpoint = endpoint
        self.fd = sock.fileno()
        self.ready = 0  # datagrams laid out
        self.messages = b""  # headers of the messages that carry them
        self._length = outbox.length
        self._per_message = MAX_SEGMENTS if endpoint.transport == "udp" else 1
        count = -(-outbox.count // self._per_message)
        self._memory = (ctypes.c_char * len(outbox.memory)).from_buffer(outbox.memory)
        name = pack_sockaddr(endpoint)
        self._name = ctypes.create_string_buffer(name, NAME_LEN)
        self._control = ctypes.create_string_buffer(_CMSG[:16] + self._length.to_bytes(2, "little"), 24)
        self._iovecs = (_Iovec * count)()
        self._headers = (_Mmsghdr * count)()
        for i in range(count):
            start = i * self._per_message * self._length
            self._iovecs[i].base = ctypes.addressof(self._memory) + start
            self._headers[i].name = ctypes.addressof(self._name)
            self._headers[i].namelen = len(name)
            self._headers[i].iov = ctypes.addressof(self._iovecs[i])
            self._headers[i].iovlen = 1

    def lay_out(self, ready: int) -> None:
        """Have the first `ready` datagrams leave, from the next Departure on."""
        self.ready = ready
        for i, header in enumerate(self._headers):
            held = max(0, min(ready - i * self._per_message, self._per_message))
            self._iovecs[i].len = held * self._length
            several = held > 1
            header.control = ctypes.addressof(self._control) if several else None
            header.controllen = 24 if several else 0
        self.messages = bytes(self._headers)[: -(-ready // self._per_message) * _MMSGHDR_LEN]


class Departure:
    """What leaves at one moment, of however many links: a system call for those of one socket in a row."""

    def __init__(self, senders: Sequence[Sender]) -> None:
        self._senders = senders  # they have the memory that the headers point to
        if len({sender.fd for sender in senders}) == 1:  # as at most nodes
            self._calls = [_Call(senders[0].fd, senders)]
        else:
            self._calls = [_Call(fd, list(group)) for fd, group in groupby(senders, key=attrgetter("fd"))]

    def send(self) -> list[tuple[Sender, int]]:
        """Send all; return whose datagrams would not go, from some on, and the errno of the first."""
        failed: list[tuple[Sender, int]] = []
        for call in self._calls:
            call.send(failed)
        return failed


class _Call:
    """Messages of one socket."""

    def __init__(self, fd: int, senders: Sequence[Sender]) -> None:
        self._fd = fd
        self._senders = senders
        self._headers = bytearray().join([sender.messages for sender in senders])
        self._count = len(self._headers) // _MMSGHDR_LEN
        self._address = ctypes.addressof((ctypes.c_char * len(self._headers)).from_buffer(self._headers))

    def send(self, failed: list[tuple[Sender, int]]) -> None:
        done = 0
        while done < self._count:
            sent = _sendmmsg(self._fd, self._address + done * _MMSGHDR_LEN, self._count - done, 0)
            if sent >= 0:
                done += sent
                continue
            number = ctypes.get_errno()
            if number != errno.EINTR:
                sender, done = self._owner(done)
                failed.append((sender, number))

    def _owner(self, message: int) -> tuple[Sender, int]:
        """Whose message that is, and the number of the first after his."""
        end = 0
        for sender in self._senders:
            end += len(sender.messages) // _MMSGHDR_LEN
            if message < end:
                return sender, end
        raise IndexError(message)


def send_one(sock: socket.socket, datagram: bytes, endpoint: Endpoint) -> None:
    """Send a single datagram outside of any link (an answer to a stranger); losing it is no harm."""
    try:
        sock.sendto(datagram, socket.MSG_DONTWAIT, (endpoint.address, endpoint.port))
    except OSError as error:
        if error.errno in (errno.EBADF, errno.ENOTSOCK):
            raise
