"""Orders and reports between control and data plane: MessagePack over a SOCK_SEQPACKET pair.

One message is a list; a descriptor (SCM_RIGHTS) belongs to the first order of its message, and is closed
here once it is sent. Neither end ever blocks: what does not fit waits, and of that only strangers'
handshakes may be dropped.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from anonnet.proto import orders as o

PART: Final = 32  # orders or reports of one message; the longest, a handshake datagram, has 1.3 kB
MAX_MESSAGE: Final = 1 << 18
BUFFER_LEN: Final = 8 << 20
MAX_WAITING: Final = 1024  # messages


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends, for control and for the data plane."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_LEN)
    return ends


class _End:
    """What both ends do alike."""

    def __init__(self, sock: socket.socket, decoder: msgspec.msgpack.Decoder[Any]) -> None:
        self._sock = sock
        self._decoder = decoder
        self._encode = msgspec.msgpack.Encoder().encode
        self._waiting: deque[tuple[bytes, list[int]]] = deque()

    def fileno(self) -> int:
        """What to wait on for input."""
        return self._sock.fileno()

    def _push(self, items: Sequence[object], fds: Sequence[int] = ()) -> None:
        for at in range(0, len(items), PART):
            self._waiting.append((self._encode(items[at : at + PART]), list(fds) if at == 0 else []))
        self.flush()

    def flush(self) -> bool:
        """Send what waits; False if some still does."""
        while self._waiting:
            message, fds = self._waiting[0]
            try:
                socket.send_fds(self._sock, [message], fds)
            except BlockingIOError:
                return False
            self._waiting.popleft()
            for fd in fds:
                os.close(fd)
        return True

    def _pull(self) -> list[tuple[Any, list[int]]]:
        """Messages that have come; ConnectionError when the other end has gone."""
        found: list[tuple[Any, list[int]]] = []
        while True:
            try:
                message, fds, _, _ = socket.recv_fds(self._sock, MAX_MESSAGE, 4)
            except BlockingIOError:
                return found
            if not message:
                raise ConnectionError("the other process has ended")
            found.append((self._decoder.decode(message), list(fds)))


class OrderPipe(_End):
    """The data plane's end."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, msgspec.msgpack.Decoder(list[o.AnyOrder]))

    def receive(self) -> list[tuple[o.Order, int | None]]:
        """Orders that have come, the first of a message with its descriptor."""
        orders: list[tuple[o.Order, int | None]] = []
        for items, fds in self._pull():
            orders += [(order, fds[0] if index == 0 and fds else None) for index, order in enumerate(items)]
        return orders

    def send(self, reports: list[o.Report]) -> None:
        """Pass reports on."""
        if len(self._waiting) > MAX_WAITING:  # control is stuck; all this is sent again by who sent it
            lossy = o.HandshakeSeen | o.ControlSeen | o.SignalSeen
            reports = [report for report in reports if not isinstance(report, lossy)]
        elif len(self._waiting) > MAX_WAITING // 2:  # strangers lose their turn first
            reports = [report for report in reports if not isinstance(report, o.HandshakeSeen)]
        self._push(reports)

    def give_back(self, descriptor: int) -> None:
        """Let control close a descriptor that it gave us."""
        self._waiting.append((self._encode([]), [descriptor]))
        self.flush()


class ReportPipe(_End):
    """Control's end."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, msgspec.msgpack.Decoder(list[o.AnyReport]))

    def receive(self) -> list[o.Report]:
        """Reports that have come; descriptors that came back are closed."""
        reports: list[o.Report] = []
        for items, fds in self._pull():
            reports += items
            for fd in fds:
                os.close(fd)
        return reports

    def send(self, orders: Sequence[o.Order]) -> None:
        """Give orders."""
        self._push(orders)

    def attach(self, role: str, descriptor: int) -> None:
        """Give the data plane a TUN's descriptor; the one here is closed."""
        self._push([o.AttachTun(role)], [descriptor])
