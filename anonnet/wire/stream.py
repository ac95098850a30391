"""Frames of the reliable message channel (docs/protocol.md section 4.1).

    0     4          8                10                       14
    | ack | sequence | flags · length | selective acknowledgement | data ... | padding, ignored

One frame fills a link control cell's body, or the content of a SIGNAL payload.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from anonnet.errors import Malformed

FRAME_HEADER: Final = struct.Struct(">IIHI")  # ack, sequence, flags and length, selective ack
FRAME_HEADER_LEN: Final = FRAME_HEADER.size

MAX_MESSAGE: Final = 4096  # bytes of one message
WINDOW: Final = 64  # frames that may be unacknowledged
SACK_BITS: Final = 32
SEQUENCE_MASK: Final = 0xFFFFFFFF

_LAST: Final = 1 << 15
_DATA: Final = 1 << 14
_LENGTH_MASK: Final = _DATA - 1


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. `data` is empty in a pure acknowledgement, which has no sequence number of its own."""

    ack: int  # u32: the next sequence number that the sender of this frame waits for
    sack: int = 0  # u32: bit i says that ack + 1 + i has come as well
    sequence: int = 0  # u32: number of this fragment; 0 without data
    data: bytes = b""
    last: bool = False  # the message ends here


def encode(frame: Frame) -> bytes:
    """Return the frame's bytes without padding."""
    flags = len(frame.data)
    if frame.data:
        flags |= _DATA | (_LAST if frame.last else 0)
    return FRAME_HEADER.pack(frame.ack, frame.sequence, flags, frame.sack) + frame.data


def decode(raw: bytes | memoryview) -> Frame:
    """Return the frame that opens `raw`, whatever padding follows; raise Malformed if there is none."""
    if len(raw) < FRAME_HEADER_LEN:
        raise Malformed("frame too short")
    ack, sequence, flags, sack = FRAME_HEADER.unpack_from(raw)
    length = flags & _LENGTH_MASK
    if flags & _DATA:
        if not 0 < length <= len(raw) - FRAME_HEADER_LEN:
            raise Malformed("frame with an impossible length")
    elif flags or sequence:
        raise Malformed("frame without data, but with its number, flags or length")
    data = bytes(raw[FRAME_HEADER_LEN : FRAME_HEADER_LEN + length])
    return Frame(ack, sack, sequence, data, bool(flags & _LAST))
