"""Cells (docs/protocol.md section 3): what a link seals, and what an onion layer enciphers.

    0           4            8                24                          cell_len
    | route id  | slot number | body: left 16  | rest ...                  |
                              | 16 zero bytes where recognised             |
                                               | kind·first | sequence | content
                                               24           26         30

`CellRow` is one preallocated cell with its views cut once; the hot path moves rows, never makes them.
"""

from __future__ import annotations

import struct
from typing import Final

from anonnet.spec import CELL_HEADER_LEN, PAYLOAD_HEADER_LEN, RECOGNISED_LEN, Format, Kind

CELL_HEADER: Final = struct.Struct(">II")  # route id, slot number
PAYLOAD_HEADER: Final = struct.Struct(">HI")  # kind << 12 | first-packet offset, sequence
assert CELL_HEADER.size == CELL_HEADER_LEN
assert PAYLOAD_HEADER.size == PAYLOAD_HEADER_LEN

ZERO16: Final = bytes(RECOGNISED_LEN)


class CellRow:
    """A cell's memory and the views that the hot path needs of it."""

    __slots__ = ("body", "cell", "content", "left", "payload", "rest")

    def __init__(self, cell: memoryview) -> None:
        self.cell = cell
        self.body = cell[CELL_HEADER_LEN:]
        self.left = self.body[:RECOGNISED_LEN]
        self.rest = self.body[RECOGNISED_LEN:]
        self.payload = self.rest
        self.content = self.rest[PAYLOAD_HEADER_LEN:]

    def set_payload_header(self, kind: Kind, first: int, sequence: int) -> None:
        """Write the payload header of a cell that this node originates."""
        PAYLOAD_HEADER.pack_into(self.payload, 0, kind << 12 | first, sequence)


def rows(fmt: Format, count: int, memory: bytearray | None = None) -> list[CellRow]:
    """Allocate `count` cells of a format in one block, unless there is memory for them."""
    block = memoryview(bytearray(fmt.cell_len * count) if memory is None else memory)
    return [CellRow(block[i * fmt.cell_len : (i + 1) * fmt.cell_len]) for i in range(count)]
