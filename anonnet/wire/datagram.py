"""Datagram header (docs/protocol.md section 2).

    0       1               4                              12
    | type  | receiver index | counter                      | AEAD(cell) or handshake fragment ...

The twelve bytes are the AEAD nonce as they stand: the key is fresh for each session and direction, and
the counter never repeats within one, so neither does the nonce.
"""

from __future__ import annotations

import struct
from typing import Final

from anonnet.spec import HEADER_LEN, DatagramType

HEADER: Final = struct.Struct(">IQ")  # word (type << 24 | receiver index), counter
assert HEADER.size == HEADER_LEN

INDEX_MASK: Final = 0xFFFFFF


def word(kind: DatagramType, receiver_index: int) -> int:
    """Join type and receiver index into the header's first 32 bits, which is how sessions are found."""
    return kind << 24 | receiver_index
