"""The numbers of docs/protocol.md, and nothing else.

Everything that two implementations must agree on is here or derived from here.
Tuning constants, which an implementation may choose, live beside their use.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

PROTOCOL_VERSION: Final = 1
IP_PROTOCOL: Final = 253  # RFC 3692 experimentation; configurable
UDP_PORT: Final = 2531

# -- section 2: datagrams -------------------------------------------------------------------------

HEADER_LEN: Final = 12  # type (1) · receiver index (3) · counter (8); it is the AEAD nonce
TAG_LEN: Final = 16
CELL_HEADER_LEN: Final = 8  # route id (4) · slot number (4)
RECOGNISED_LEN: Final = 16  # zero bytes that open a body at the hop it is meant for
PAYLOAD_HEADER_LEN: Final = 6  # kind and first-packet offset (2) · sequence (4)


class DatagramType(IntEnum):
    """First byte of every datagram."""

    INITIATION = 1  # a fragment of a first handshake message
    RESPONSE = 2  # a fragment of the answer to it
    COOKIE = 3  # "prove your address first"
    DATA = 4  # one sealed cell


@dataclass(frozen=True, slots=True)
class Format:
    """One of the two datagram formats; fixed for a link's life. All lengths in bytes."""

    name: str
    code: int
    datagram_len: int  # IP payload (raw) or UDP payload

    @property
    def cell_len(self) -> int:
        """What the AEAD seals: route id, slot number, body."""
        return self.datagram_len - HEADER_LEN - TAG_LEN

    @property
    def body_len(self) -> int:
        """What an onion layer enciphers."""
        return self.cell_len - CELL_HEADER_LEN

    @property
    def payload_len(self) -> int:
        """Body less the recognition bytes: payload header and content."""
        return self.body_len - RECOGNISED_LEN

    @property
    def content_len(self) -> int:
        """What segmentation or signalling may fill of one cell."""
        return self.payload_len - PAYLOAD_HEADER_LEN


WIDE: Final = Format("wide", 1, 1232)  # a 1280-byte path less IPv6 and UDP headers
NARROW: Final = Format("narrow", 2, 256)  # modems
FORMATS: Final = {f.name: f for f in (WIDE, NARROW)}
FORMAT_BY_CODE: Final = {f.code: f for f in (WIDE, NARROW)}

# -- section 3: cells -----------------------------------------------------------------------------

ROUTE_NULL: Final = 0  # link null: an empty slot
ROUTE_CONTROL: Final = 1  # the link's control channel
ROUTE_FIRST: Final = 256  # smallest id a route may have
ROUTE_PARITY_BIT: Final = 1 << 31  # set in ids that the end with the greater node id picks
SLOT_MASK: Final = 0xFFFFFFFF


class Kind(IntEnum):
    """What a recognised body carries (top 4 bits of the payload header)."""

    NULL = 0
    SIGNAL = 1
    DATA = 2
    GROUPED = 3  # data in a group that parity protects: the last PARITY_HEAD_LEN bytes of content are unused
    PARITY = 4


PARITY_HEAD_LEN: Final = 2  # of a data cell's payload header that parity covers beside the content
NO_FIRST: Final = 0xFFF  # payload header: no packet starts in this cell

# -- section 6: trains ----------------------------------------------------------------------------

MAX_TRAIN: Final = 16_384  # bytes of several TCP segments that travel as one packet
SEGMENT_LEAST: Final = 256  # bytes of payload of each of them

# -- section 7: inner addresses -------------------------------------------------------------------
# Every caller has the same, so they say nothing. RFC 6333 gives 192.0.0.0/29 this very role
# (every B4 may use 192.0.0.2); the IPv6 ones are from a unique local prefix (RFC 4193).

INNER4_CALLER: Final = "192.0.0.2"
INNER4_EXIT: Final = "192.0.0.1"  # also the inner resolver
INNER6_CALLER: Final = "fd61:6e6f:6e6e::2"
INNER6_EXIT: Final = "fd61:6e6f:6e6e::1"
TUN_MTU: Final = 1500
