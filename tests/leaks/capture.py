"""What leaves the caller's host, seen from the router's end of its cable, packet by packet.

Allowed are the link's datagrams (protocol, both addresses, length), ARP, neighbour discovery, the listener
reports that go with it, and DHCP. Whatever else comes is a leak, and named after its probe where it bears
a number.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from pyroute2 import netns

from tests.leaks.probes import FIRST_PORT, MARK_TOKEN, TOKEN

ETH_P_ALL: Final = 3
SOL_PACKET, PACKET_STATISTICS = 263, 6
SO_RCVBUFFORCE: Final = 33
BUFFER: Final = 64 << 20
NOT_IP: Final = (0x0806, 0x888E)  # ARP, 802.1X
ND: Final = {133: 255, 135: 255, 136: 255, 143: 1}  # ICMPv6 type: the hop limit that it must have


class Wire:
    """A packet socket on a device of another namespace. `start` forgets what came before."""

    def __init__(
        self, namespace: str, device: str, links: Iterable[tuple[str, str]], lengths: Iterable[int],
        names: Mapping[int, str],
    ) -> None:  # fmt: skip
        """`links`: source and destination of datagrams that may pass. `names`: of the probes, by number."""
        self._links = {(socket.inet_aton(a), socket.inet_aton(b)) for a, b in links}
        self._lengths = frozenset(lengths)
        self.names = names
        self._lock = threading.Lock()
        self.leaks: Counter[str] = Counter()
        self.probes: Counter[int] = Counter()
        self.allowed: Counter[str] = Counter()
        self.samples: list[bytes] = []
        self._marked = 0
        self._socket = _socket_in(namespace, device)
        self._socket.settimeout(0.2)
        self._ended = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def start(self) -> None:
        """Count from here."""
        with self._lock:
            self.leaks, self.probes, self.allowed, self.samples = Counter(), Counter(), Counter(), []
        self.dropped()

    def await_mark(self, burst: int, seconds: float = 10) -> None:
        """Wait until the mark of this burst, or a later one, has come."""
        deadline = time.monotonic() + seconds
        while self._marked < burst:
            assert time.monotonic() < deadline, f"the mark of burst {burst} did not reach the wire"
            time.sleep(0.01)
        time.sleep(0.05)  # what another core sent at the same time
        assert not self.dropped(), "the capture lost packets and proves nothing"

    def close(self) -> None:
        """End the capture."""
        self._ended = True
        self._thread.join()
        self._socket.close()

    def dropped(self) -> int:
        """Return how many packets it missed since the last call; if any, it proves nothing."""
        raw = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        return int(struct.unpack("II", raw)[1])

    def _read(self) -> None:
        while not self._ended:
            try:
                frame, address = self._socket.recvfrom(65536)
            except TimeoutError:
                continue
            if address[2] != socket.PACKET_OUTGOING:
                self._judge(address[1], frame[14:])

    def _judge(self, kind: int, packet: bytes) -> None:
        with self._lock:
            if kind in NOT_IP:
                self.allowed["below IP"] += 1
                return
            at = packet.find(MARK_TOKEN)
            if at >= 0:
                self._marked = max(self._marked, struct.unpack_from("!I", packet, at + len(MARK_TOKEN))[0])
                return
            why = self._may_pass(kind, packet)
            if why:
                self.allowed[why] += 1
                return
            number = probe_number(kind, packet)
            if number in self.names:
                self.probes[number] += 1
                self.leaks[self.names[number]] += 1
            else:
                self.leaks[f"other: {packet[:44].hex()}"] += 1
            if len(self.samples) < 20:
                self.samples.append(packet[:80])

    def _may_pass(self, kind: int, packet: bytes) -> str:
        if kind == 0x0800 and len(packet) >= 20:
            total, protocol = struct.unpack_from("!H", packet, 2)[0], packet[9]
            if protocol == 253 and (packet[12:16], packet[16:20]) in self._links and total in self._lengths:
                return "link"
            if protocol == 17 and packet[20:24] == struct.pack("!HH", 68, 67):
                return "dhcp"
        elif kind == 0x86DD and len(packet) >= 48:
            protocol, rest = packet[6], packet[40:]
            if protocol == 0 and rest[0] == 58:  # a router alert goes before listener reports
                protocol, rest = 58, rest[8:]
            if protocol == 58 and ND.get(rest[0]) == packet[7]:
                return "neighbour discovery"
            if protocol == 17 and rest[:4] == struct.pack("!HH", 546, 547):
                return "dhcp"
        return ""


def probe_number(kind: int, packet: bytes) -> int:
    """Return the number that a packet bears, -1 without one."""
    at = packet.find(TOKEN)
    if at >= 0:
        return int(struct.unpack_from("!H", packet, at + len(TOKEN))[0])
    start = 40 if kind == 0x86DD else (packet[0] & 15) * 4
    if len(packet) >= start + 2:
        return int(struct.unpack_from("!H", packet, start)[0]) - FIRST_PORT
    return -1


def within(namespace: str, make: Callable[[], socket.socket]) -> socket.socket:
    """Return a socket made in a network namespace; the calling thread stays where it is."""
    made: list[socket.socket] = []

    def work() -> None:
        netns.setns(namespace)
        made.append(make())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return made[0]


def _socket_in(namespace: str, device: str) -> socket.socket:
    def make() -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        sock.bind((device, ETH_P_ALL))
        return sock

    return within(namespace, make)
