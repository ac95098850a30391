"""SOCKS version 5 (RFC 1928), its user names and passwords (RFC 1929), and Tor's two commands for names
(socks-extensions.txt). What a client says is read by generators:

    size = next(reading)            how many bytes it wants
    size = reading.send(data)       ... exactly so many; its return value is what they meant

so that the same code reads a stream (`tun.socks.listener`), and a datagram or a test (`read_all`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Generator
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeVar

from anonnet.errors import Malformed

VERSION: Final = 5
PASSWORD_VERSION: Final = 1  # of the sub-negotiation
NO_METHOD: Final = 0xFF

_IPV4, _NAME, _IPV6 = 1, 3, 4  # address types
_FRAGMENT_HEADER: Final = 3  # of a datagram: reserved (2), fragment (1)

T = TypeVar("T")
Reading = Generator[int, bytes, T]
Address = IPv4Address | IPv6Address


class Method(IntEnum):
    """How a client proves who it is; the better one for us is the greater."""

    NONE = 0
    PASSWORD = 2


class Command(IntEnum):
    """What a client wants."""

    CONNECT = 1
    BIND = 2
    UDP_ASSOCIATE = 3
    RESOLVE = 0xF0  # Tor's: the address of a name
    RESOLVE_PTR = 0xF1  # .. and the name of an address


class Reply(IntEnum):
    """What became of it."""

    DONE = 0
    FAILED = 1
    NOT_ALLOWED = 2
    NETWORK_UNREACHABLE = 3
    HOST_UNREACHABLE = 4
    REFUSED = 5
    TIMED_OUT = 6
    NO_SUCH_COMMAND = 7


@dataclass(frozen=True, slots=True)
class Target:
    """Where to: an address, or a name (at most 255 ASCII characters) that the far end is to resolve."""

    host: Address | str
    port: int


NOWHERE: Final = Target(IPv4Address(0), 0)  # in replies: the client need not know


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and a password, 1 to 255 bytes each; both empty for a client that gave none."""

    user: bytes = b""
    password: bytes = b""


def read_methods() -> Reading[frozenset[int]]:
    """Read the first message: which methods the client offers."""
    version, count = yield 2
    if version != VERSION:
        raise Malformed(f"SOCKS version {version}")
    return frozenset((yield count))


def read_credentials() -> Reading[Credentials]:
    """Read user name and password."""
    version, size = yield 2
    if version != PASSWORD_VERSION:
        raise Malformed(f"version {version} of the password message")
    user = yield size
    (size,) = yield 1
    return Credentials(user, (yield size))


def read_request() -> Reading[tuple[int, Target]]:
    """Read what the client wants: a `Command`, or a number that is none, and where to."""
    version, command, _ = yield 3
    if version != VERSION:
        raise Malformed(f"SOCKS version {version}")
    return command, (yield from _read_target())


def read_datagram_header() -> Reading[Target | None]:
    """Read what stands before a datagram's payload; None for a fragment, which need not be supported."""
    fragment = (yield _FRAGMENT_HEADER)[2]
    target = yield from _read_target()
    return None if fragment else target


def read_all(reading: Reading[T], data: bytes) -> tuple[T, bytes]:
    """Let a reader have what it wants of `data`; return what it made of it, and the rest."""
    at = 0
    try:
        size = next(reading)
        while True:
            if len(data) - at < size:
                raise Malformed("cut short")
            at += size
            size = reading.send(data[at - size : at])
    except StopIteration as end:
        return end.value, data[at:]


def write_method(method: int) -> bytes:
    """Return the answer to the first message: a `Method`, or NO_METHOD."""
    return bytes((VERSION, method))


def write_accepted() -> bytes:
    """Return the answer to user name and password: any will do, they only tell users apart."""
    return bytes((PASSWORD_VERSION, 0))


def write_reply(reply: Reply, bound: Target = NOWHERE) -> bytes:
    """Return the answer to a request."""
    return bytes((VERSION, reply, 0)) + _write_target(bound)


def write_datagram_header(source: Target) -> bytes:
    """Return what stands before the payload of a datagram from `source`."""
    return bytes(_FRAGMENT_HEADER) + _write_target(source)


def _read_target() -> Reading[Target]:
    (kind,) = yield 1
    host: Address | str
    if kind == _IPV4:
        host = IPv4Address((yield 4))
    elif kind == _IPV6:
        host = IPv6Address((yield 16))
    elif kind == _NAME:
        (size,) = yield 1
        host = _host((yield size))
    else:
        raise Malformed(f"address type {kind}")
    return Target(host, int.from_bytes((yield 2), "big"))


def _host(raw: bytes) -> Address | str:
    """An address written as a name is an address: nobody is to be asked for it."""
    try:
        name = raw.decode("ascii")
    except UnicodeDecodeError:
        raise Malformed("a name that is not ASCII") from None
    if not name or not name.isprintable() or " " in name:
        raise Malformed("no name")
    try:
        return ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return name


def _write_target(target: Target) -> bytes:
    if isinstance(target.host, str):
        raw = target.host.encode("ascii")
        kind = bytes((_NAME, len(raw)))
    else:
        raw = target.host.packed
        kind = bytes((_IPV4 if target.host.version == 4 else _IPV6,))
    return kind + raw + target.port.to_bytes(2, "big")
