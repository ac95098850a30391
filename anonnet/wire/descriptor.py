"""Descriptors and invites (docs/protocol.md, "Descriptor"): what a node says of itself, signed.

    version 1 · suite 1 · flags 1 · epoch 4 · identity 32 · link 32 · onion 32
    · count 1 · addresses (transport 1 · family 1 · address 4 or 16 · port 2)
    · count 1 · neighbours (20 each, ascending)
    · length 1 · name
    · signature 64: Ed25519 by identity over SIGN_LABEL and all bytes before

One descriptor has one encoding: lists are bounded, neighbours sorted, text printable. An invite is
`anonnet:` and the signed bytes in base64url.
"""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from anonnet.errors import Forged, Malformed
from anonnet.ids import NODE_ID_LEN, NodeId

DESCRIPTOR_VERSION: Final = 1
SIGN_LABEL: Final = b"AnonNet descriptor"
SIGNATURE_LEN: Final = 64
KEY_LEN: Final = 32
MAX_ADDRESSES: Final = 8
MAX_NEIGHBOURS: Final = 32
MAX_NAME_LEN: Final = 32  # bytes of UTF-8
INVITE_SCHEME: Final = "anonnet:"

_HEAD: Final = struct.Struct(">BBBI32s32s32s")  # version, suite, flags, epoch, identity, link, onion
_ADDRESS_LEN: Final = {4: 4, 6: 16}
_EXIT4: Final = 1
_EXIT6: Final = 2
MAX_LEN: Final = (
    _HEAD.size + 3 + MAX_ADDRESSES * 20 + MAX_NEIGHBOURS * NODE_ID_LEN + MAX_NAME_LEN + SIGNATURE_LEN
)


class Transport(IntEnum):
    """How datagrams travel to an address."""

    RAW = 1
    UDP = 2


@dataclass(frozen=True, slots=True)
class Address:
    """Where a node takes datagrams; `port` is 0 for RAW, which has none, and never 0 for UDP."""

    transport: Transport
    host: IPv4Address | IPv6Address
    port: int


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a node says of itself. Keys are raw public keys of 32 bytes."""

    suite_code: int  # u8
    epoch: int  # u32: a greater one replaces a smaller one
    identity: bytes  # Ed25519
    link: bytes  # X25519, static key of link handshakes
    onion: bytes  # X25519, static key of hop handshakes
    exit4: bool = False  # forwards to the IPv4 Internet
    exit6: bool = False
    addresses: tuple[Address, ...] = ()
    neighbours: tuple[NodeId, ...] = ()  # ascending
    name: str = ""  # for people; proves nothing

    @property
    def node_id(self) -> NodeId:
        """The id that the identity key gives."""
        return node_id_of(self.identity)


def node_id_of(identity: bytes) -> NodeId:
    """Return the node id of a 32-byte Ed25519 public key."""
    return NodeId(hashlib.sha256(identity).digest()[:NODE_ID_LEN])


def sign(descriptor: Descriptor, key: Ed25519PrivateKey) -> bytes:
    """Return the signed bytes. `key` must be the descriptor's identity (ValueError: ours to mend)."""
    if key.public_key().public_bytes_raw() != descriptor.identity:
        raise ValueError("a descriptor is signed by its own identity")
    body = encode(descriptor)
    return body + key.sign(SIGN_LABEL + body)


def verify(signed: bytes) -> Descriptor:
    """Read signed bytes: Malformed when no encoder made them, Forged when the identity did not sign them."""
    body, signature = signed[:-SIGNATURE_LEN], signed[-SIGNATURE_LEN:]
    descriptor = decode(body)
    try:
        Ed25519PublicKey.from_public_bytes(descriptor.identity).verify(signature, SIGN_LABEL + body)
    except (InvalidSignature, ValueError) as error:
        raise Forged("descriptor not signed by its identity") from error
    return descriptor


def invite(signed: bytes) -> str:
    """Return the URI that tells somebody else of a node."""
    return INVITE_SCHEME + base64.urlsafe_b64encode(signed).rstrip(b"=").decode("ascii")


def invite_bytes(text: str) -> bytes:
    """Return the signed bytes that an invite holds, not yet verified; Malformed when it is no invite."""
    match = re.fullmatch(r"anonnet:([A-Za-z0-9_-]+)", text.strip())
    if match is None or len(match[1]) > MAX_LEN * 4 // 3 + 1 or len(match[1]) % 4 == 1:
        raise Malformed("not an anonnet: invite")
    signed = base64.urlsafe_b64decode(match[1] + "=" * (-len(match[1]) % 4))
    if invite(signed) != match[0]:  # bits beyond the last byte
        raise Malformed("not an anonnet: invite")
    return signed


def parse_invite(text: str) -> Descriptor:
    """Read and verify an invite. A wrong signature is Malformed too: most often it is a slip in copying."""
    try:
        return verify(invite_bytes(text))
    except Forged as error:
        raise Malformed("an invite whose signature does not fit") from error


def encode(descriptor: Descriptor) -> bytes:
    """Return the bytes that are signed. Raises ValueError for a descriptor that cannot be said so."""
    try:
        data = _pack(descriptor)
        faithful = decode(data) == descriptor
    except (Malformed, OverflowError, struct.error) as error:
        raise ValueError(f"not a descriptor: {error}") from error
    if not faithful:
        raise ValueError("not a descriptor: a key of the wrong length, or an address with a scope")
    return data


def decode(data: bytes) -> Descriptor:
    """Read what `encode` wrote, without signature; Malformed on anything else."""
    rest = _Reader(data)
    version, suite_code, flags, epoch, identity, link, onion = _HEAD.unpack(rest.take(_HEAD.size))
    if version != DESCRIPTOR_VERSION:
        raise Malformed(f"a descriptor of version {version}")
    if flags & ~(_EXIT4 | _EXIT6):
        raise Malformed("unknown flags in a descriptor")
    addresses = tuple(_decode_address(rest) for _ in range(rest.count(MAX_ADDRESSES)))
    neighbours = tuple(NodeId(rest.take(NODE_ID_LEN)) for _ in range(rest.count(MAX_NEIGHBOURS)))
    name = _decode_name(rest.take(rest.count(MAX_NAME_LEN)))
    rest.finish()
    if len(set(addresses)) != len(addresses):
        raise Malformed("an address twice in a descriptor")
    if any(a >= b for a, b in pairwise(neighbours)):
        raise Malformed("neighbours out of order in a descriptor")
    exit4, exit6 = bool(flags & _EXIT4), bool(flags & _EXIT6)
    return Descriptor(suite_code, epoch, identity, link, onion, exit4, exit6, addresses, neighbours, name)


def _pack(descriptor: Descriptor) -> bytes:
    name = descriptor.name.encode()
    data = _HEAD.pack(
        DESCRIPTOR_VERSION,
        descriptor.suite_code,
        descriptor.exit4 * _EXIT4 | descriptor.exit6 * _EXIT6,
        descriptor.epoch,
        descriptor.identity,
        descriptor.link,
        descriptor.onion,
    )
    data += bytes([len(descriptor.addresses)])
    for address in descriptor.addresses:
        data += bytes([address.transport, address.host.version])
        data += address.host.packed + address.port.to_bytes(2, "big")
    data += bytes([len(descriptor.neighbours)]) + b"".join(descriptor.neighbours)
    return data + bytes([len(name)]) + name


def _decode_address(rest: _Reader) -> Address:
    code, family = rest.take(2)
    if code not in Transport.__members__.values() or family not in _ADDRESS_LEN:
        raise Malformed("no such transport or address family")
    packed = rest.take(_ADDRESS_LEN[family])
    host = IPv4Address(packed) if family == 4 else IPv6Address(packed)
    port = int.from_bytes(rest.take(2), "big")
    if host.is_unspecified or host.is_multicast or (isinstance(host, IPv6Address) and host.ipv4_mapped):
        raise Malformed("an address that no node can have")
    if (port == 0) != (code == Transport.RAW):
        raise Malformed("udp has a port, raw has none")
    return Address(Transport(code), host, port)


def _decode_name(raw: bytes) -> str:
    try:
        name = raw.decode()
    except UnicodeDecodeError as error:
        raise Malformed("a name that is not UTF-8") from error
    if not name.isprintable():
        raise Malformed("a name with unprintable characters")
    return name


class _Reader:
    """Bytes taken from the front."""

    def __init__(self, data: bytes) -> None:
        self._rest = data

    def take(self, length: int) -> bytes:
        if len(self._rest) < length:
            raise Malformed("descriptor is cut short")
        part, self._rest = self._rest[:length], self._rest[length:]
        return part

    def count(self, limit: int) -> int:
        (count,) = self.take(1)
        if count > limit:
            raise Malformed(f"{count} where a descriptor has at most {limit}")
        return count

    def finish(self) -> None:
        if self._rest:
            raise Malformed("bytes after the end of a descriptor")
