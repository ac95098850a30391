"""First handshakes (docs/protocol.md, "Handshake datagrams"): payloads, and messages cut into datagrams.

    0      1       4            8      9       10       12                     -32    -16
    | type | index | message id | part | parts | length | chunk · random bytes | mac1 | mac2 |

Every datagram has the full length of the link's format. `index` is where the initiator wants its answers.
mac1 is keyed by the receiver's link key and the suite: who does not know that key gets silence. mac2 is keyed
by a cookie, or zero. Neither is a secret's proof; that is the handshake's own business.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from hashlib import blake2s
from typing import Final

from anonnet.errors import Malformed
from anonnet.spec import FORMAT_BY_CODE, HEADER_LEN, DatagramType, Format
from anonnet.wire.datagram import INDEX_MASK, word

MAC_LEN: Final = 16
MACS_LEN: Final = 2 * MAC_LEN
MAC1_LABEL: Final = b"AnonNet mac1"
FIRST_SUITE: Final = 1  # code of anonnet-2026, which adds nothing to the key of mac1
MAX_PARTS: Final = 8  # the longest message of a suite, 1325 bytes, makes 7 narrow datagrams
NO_COOKIE: Final = bytes(MAC_LEN)
FRAGMENT_HEADER: Final = struct.Struct(">IIBBH")  # type and index, message id, part, parts, chunk length
assert FRAGMENT_HEADER.size == HEADER_LEN

PARTIALS_LIMIT: Final = 64  # tuning: messages under reassembly
PARTIAL_TIMEOUT: Final = 5_000_000_000  # tuning: ns; seven narrow datagrams need half a second on a modem

_FORMAT_BY_LEN: Final = {f.datagram_len: f for f in FORMAT_BY_CODE.values()}
_FRAGMENTED: Final = frozenset((DatagramType.INITIATION, DatagramType.RESPONSE))

# -- payloads -------------------------------------------------------------------------------------

TIMESTAMP_LEN: Final = 12
MAX_TICK_NS: Final = 60_000_000_000
_OFFER: Final = struct.Struct(">12sIBQHH")  # timestamp, index << 8 | format, suite, tick, cells out, in
_ANSWER: Final = struct.Struct(">IQHH")  # index << 8 | status, tick, cells out, cells in
OFFER_LEN: Final = _OFFER.size  # 29
ANSWER_LEN: Final = _ANSWER.size  # 16


class Status(IntEnum):
    """How the responder takes an offer; all but OK end the handshake there."""

    OK = 0
    PROFILE = 1
    FORMAT = 2
    SUITE = 3
    FULL = 4

    @property
    def text(self) -> str:
        """The reason, for the operator."""
        return _STATUS_TEXT[self]


_STATUS_TEXT: Final = {
    Status.OK: "no objection",
    Status.PROFILE: "the two ends have different ticks or cells per tick for this link",
    Status.FORMAT: "one end has wide and the other narrow datagrams for this link",
    Status.SUITE: "the two ends use different suites",
    Status.FULL: "no room for another link",
}


@dataclass(frozen=True, slots=True)
class LinkOffer:
    """Payload of the first message: the link that the initiator wants, as the initiator sees it."""

    timestamp: bytes  # 12 bytes, see `tai64n`: greater than in any offer before
    index: int  # u24: header index of datagrams to the initiator
    format_code: int  # of spec.FORMAT_BY_CODE
    suite_code: int  # u8
    tick_ns: int
    cells_out: int  # initiator to responder, per tick
    cells_in: int

    def encode(self) -> bytes:
        """Return the 29 bytes."""
        index_format = self.index << 8 | self.format_code
        return _OFFER.pack(
            self.timestamp, index_format, self.suite_code, self.tick_ns, self.cells_out, self.cells_in
        )

    @classmethod
    def decode(cls, data: bytes) -> LinkOffer:
        """Read what `encode` wrote; Malformed on anything else."""
        if len(data) != OFFER_LEN:
            raise Malformed("a link offer has 29 bytes")
        timestamp, index_format, suite_code, tick_ns, cells_out, cells_in = _OFFER.unpack(data)
        if index_format & 0xFF not in FORMAT_BY_CODE:
            raise Malformed("no such datagram format")
        _check_profile(tick_ns, cells_out, cells_in)
        return cls(
            timestamp, index_format >> 8, index_format & 0xFF, suite_code, tick_ns, cells_out, cells_in
        )


@dataclass(frozen=True, slots=True)
class LinkAnswer:
    """Payload of the second message: the responder's status, and what it has configured for this link."""

    index: int  # u24: header index of datagrams to the responder; means nothing unless status is OK
    status: Status
    tick_ns: int
    cells_out: int  # responder to initiator, per tick
    cells_in: int

    def encode(self) -> bytes:
        """Return the 16 bytes."""
        return _ANSWER.pack(self.index << 8 | self.status, self.tick_ns, self.cells_out, self.cells_in)

    @classmethod
    def decode(cls, data: bytes) -> LinkAnswer:
        """Read what `encode` wrote; Malformed on anything else."""
        if len(data) != ANSWER_LEN:
            raise Malformed("a link answer has 16 bytes")
        index_status, tick_ns, cells_out, cells_in = _ANSWER.unpack(data)
        try:
            status = Status(index_status & 0xFF)
        except ValueError as error:
            raise Malformed("no such link status") from error
        _check_profile(tick_ns, cells_out, cells_in)
        return cls(index_status >> 8, status, tick_ns, cells_out, cells_in)


def tai64n(unix_ns: int) -> bytes:
    """Return 12 bytes that sort as time does: TAI64N, cut to 16.8 ms so that it says less of the clock."""
    seconds, ns = divmod(unix_ns, 1_000_000_000)
    return struct.pack(">QI", (1 << 62) + 10 + seconds, ns & ~0xFFFFFF)


def _check_profile(tick_ns: int, cells_out: int, cells_in: int) -> None:
    if not (0 < tick_ns <= MAX_TICK_NS and cells_out and cells_in):
        raise Malformed("a link has a tick of up to a minute and at least one cell each way")


# -- fragments ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fragment:
    """One datagram's share of a first handshake message, its mac1 verified."""

    kind: DatagramType
    fmt: Format
    index: int
    message_id: int
    part: int
    parts: int
    chunk: bytes
    mac1: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """A whole message: INITIATION or RESPONSE, and what an answer to it needs."""

    kind: DatagramType
    fmt: Format
    index: int
    message_id: int
    data: bytes


def chunk_len(fmt: Format) -> int:
    """Return how many bytes of a message one datagram carries."""
    return fmt.datagram_len - HEADER_LEN - MACS_LEN


def mac1_key(receiver_public: bytes, suite_code: int = FIRST_SUITE) -> bytes:
    """Return the key of mac1 for datagrams of a suite to the node with that 32-byte link key."""
    suite = b"" if suite_code == FIRST_SUITE else bytes([suite_code])
    return blake2s(MAC1_LABEL + receiver_public + suite).digest()


def mac(key: bytes, data: bytes) -> bytes:
    """Return the 16-byte keyed BLAKE2s (RFC 7693) that mac1, mac2 and cookies are made with."""
    return blake2s(data, digest_size=MAC_LEN, key=key).digest()


def fragment(
    message: bytes,
    fmt: Format,
    kind: DatagramType,
    index: int,
    message_id: int,
    mac_key: bytes,
    cookie: bytes | None,
    random: Callable[[int], bytes],
) -> list[bytes]:
    """Cut a message into datagrams of the format's length, each with its macs.

    `mac_key` is `mac1_key(receiver)`; `cookie` what the receiver last sent, if it did. A RESPONSE has the
    index and message id of what it answers.
    """
    size = chunk_len(fmt)
    chunks = [message[i : i + size] for i in range(0, len(message), size)]
    assert 0 < len(chunks) <= MAX_PARTS
    datagrams = []
    for part, chunk in enumerate(chunks):
        header = FRAGMENT_HEADER.pack(word(kind, index), message_id, part, len(chunks), len(chunk))
        data = header + chunk + random(size - len(chunk))
        data += mac(mac_key, data)
        datagrams.append(data + (mac(cookie, data) if cookie else NO_COOKIE))
    return datagrams


def open_fragment(datagram: bytes, mac_key: bytes) -> Fragment | None:
    """Return what a datagram carries, or None, in silence, if it is not for us or no encoder made it."""
    fmt = _FORMAT_BY_LEN.get(len(datagram))
    if fmt is None:
        return None
    mac1 = datagram[-MACS_LEN:-MAC_LEN]
    if not hmac.compare_digest(mac1, mac(mac_key, datagram[:-MACS_LEN])):
        return None
    word_, message_id, part, parts, length = FRAGMENT_HEADER.unpack_from(datagram)
    kind = word_ >> 24
    last = part == parts - 1
    full = chunk_len(fmt)
    if kind not in _FRAGMENTED or part >= parts or parts > MAX_PARTS:
        return None
    if not (0 < length <= full if last else length == full):
        return None
    chunk = datagram[HEADER_LEN : HEADER_LEN + length]
    return Fragment(DatagramType(kind), fmt, word_ & INDEX_MASK, message_id, part, parts, chunk, mac1)


def mac2_valid(datagram: bytes, cookie: bytes) -> bool:
    """Say whether the sender of this datagram knows `cookie`."""
    return hmac.compare_digest(datagram[-MAC_LEN:], mac(cookie, datagram[:-MAC_LEN]))


class Reassembler:
    """Messages from fragments, in any order and with repetitions; bounded in number and time."""

    def __init__(self, limit: int = PARTIALS_LIMIT, timeout: int = PARTIAL_TIMEOUT) -> None:
        self._limit = limit
        self._timeout = timeout
        # Oldest first, as dicts keep their order: key -> (when begun, part -> chunk).
        self._partials: dict[tuple[object, ...], tuple[int, dict[int, bytes]]] = {}

    def __len__(self) -> int:
        return len(self._partials)

    def add(self, piece: Fragment, source: bytes, now: int) -> Message | None:
        """Take one fragment from `source` (its address); return the message that it completes, if it does.

        Fragments that disagree on anything but part and chunk belong to different messages.
        """
        self._expire(now)
        key = (source, piece.kind, piece.fmt, piece.index, piece.message_id, piece.parts)
        if key not in self._partials:
            if len(self._partials) >= self._limit:
                del self._partials[next(iter(self._partials))]
            self._partials[key] = (now, {})
        chunks = self._partials[key][1]
        chunks.setdefault(piece.part, piece.chunk)
        if len(chunks) < piece.parts:
            return None
        del self._partials[key]
        data = b"".join(chunks[part] for part in range(piece.parts))
        return Message(piece.kind, piece.fmt, piece.index, piece.message_id, data)

    def _expire(self, now: int) -> None:
        while self._partials:
            key = next(iter(self._partials))
            if now - self._partials[key][0] < self._timeout:
                return
            del self._partials[key]
