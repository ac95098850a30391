"""What the kernel takes for a datagram: batches of a tick over the loopback, which carries each datagram up
to the receiving socket before the send is done.
"""

from __future__ import annotations

import socket
import statistics
import time
from dataclasses import dataclass
from typing import Final

from anonnet.bench.parts import CELLS
from anonnet.net.mmsg import Departure, Receiver, Sender
from anonnet.proto.inbox import Outbox
from anonnet.proto.orders import Endpoint
from anonnet.spec import IP_PROTOCOL, Format

LOOPBACK: Final = "127.0.0.1"
BUFFER_LEN: Final = 1 << 22


@dataclass(frozen=True)
class SocketCost:
    """Microseconds for each datagram."""

    send: float
    receive: float

    @property
    def both(self) -> float:
        """A hop does both for each cell."""
        return self.send + self.receive


def measure(fmt: Format, transport: str, ticks: int, offload: bool = True) -> SocketCost:
    """Measure a transport; raw needs root. Without `offload`, UDP sends each datagram by itself."""
    kind = (socket.SOCK_RAW, IP_PROTOCOL) if transport == "raw" else (socket.SOCK_DGRAM, 0)
    with socket.socket(socket.AF_INET, *kind) as receiving, socket.socket(socket.AF_INET, *kind) as sending:
        receiving.bind((LOOPBACK, 0))
        receiving.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_LEN)
        port = receiving.getsockname()[1] if transport == "udp" else 0
        # Only by its name does a sender tell that a socket can split what it is given.
        endpoint = Endpoint(transport if offload else "raw", LOOPBACK, port)
        sender, receiver = Sender(sending, endpoint, Outbox(fmt, CELLS)), Receiver(receiving, transport)
        sender.lay_out(CELLS)
        departure = Departure([sender])
        sends, receives = [], []
        for _ in range(ticks):
            start = time.perf_counter_ns()
            failed = departure.send()
            sent = time.perf_counter_ns()
            receiver.receive()
            receives.append(time.perf_counter_ns() - sent)
            sends.append(sent - start)
            assert not failed
            assert len(receiver.inbox.lengths) == CELLS
        return SocketCost(*(statistics.median(costs) / CELLS / 1000 for costs in (sends, receives)))
