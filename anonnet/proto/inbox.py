"""Memory that a socket receives into, and the batch that a link sends from, with every view cut once.

The data plane core reads and writes these; `net` fills and empties them with recvmmsg and sendmmsg, the
simulator with lists. Nothing here allocates per datagram.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from anonnet.proto.orders import Endpoint
from anonnet.spec import FORMATS, HEADER_LEN, Format

STRIDE = 2048  # bytes per received datagram: the longest, with any IP header
NAME_LEN = 28  # of a source as the kernel writes it: sockaddr_in6, the longer one


class FormatViews(NamedTuple):
    """Views of every row of an inbox as a datagram of one format."""

    nonces: list[memoryview]
    sealed: list[memoryview]

    @classmethod
    def cut(cls, memory: memoryview, count: int, offset: int, fmt: Format) -> FormatViews:
        """Cut them for `count` rows, whose datagrams begin `offset` bytes into each."""
        starts = range(offset, count * STRIDE, STRIDE)
        return cls(
            [memory[at : at + HEADER_LEN] for at in starts],
            [memory[at + HEADER_LEN : at + fmt.datagram_len] for at in starts],
        )


class Inbox:
    """`count` rows of `STRIDE` bytes; a datagram begins `offset` bytes into its row (the IP header).

    `names` has `NAME_LEN` bytes for each row, which are the same for all that come from one source; without
    it, each source must be looked at.
    """

    def __init__(
        self, count: int, offset: int, source: Callable[[int], Endpoint], names: bytearray | None = None
    ) -> None:
        self.count = count
        self.offset = offset
        self.memory = memoryview(bytearray(count * STRIDE))
        self.views = {
            f.datagram_len: FormatViews.cut(self.memory, count, offset, f) for f in FORMATS.values()
        }
        self.lengths: Sequence[int] = ()
        self.source = source
        self.names = names

    def datagram(self, index: int) -> bytes:
        """Copy out datagram `index` of the last receive."""
        start = index * STRIDE + self.offset
        return bytes(self.memory[start : start + self.lengths[index]])


class Outbox:
    """One tick's datagrams of a link, back to back."""

    __slots__ = ("count", "length", "memory", "nonces", "sealed", "views")

    def __init__(self, fmt: Format, count: int) -> None:
        self.count = count
        self.length = fmt.datagram_len
        self.memory = memoryview(bytearray(count * self.length))
        self.views = [self.memory[i * self.length : (i + 1) * self.length] for i in range(count)]
        self.nonces = [view[:HEADER_LEN] for view in self.views]
        self.sealed = [view[HEADER_LEN:] for view in self.views]
