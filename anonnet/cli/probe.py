"""Whether packets really pass: ICMP echoes through the tunnel to the exit's inner address (RFC 792)."""

from __future__ import annotations

import os
import socket
import struct
import time
from typing import Final

from anonnet.errors import OperatorError
from anonnet.spec import INNER4_EXIT

ECHO: Final = struct.Struct(">BBHHH")  # type, code, checksum, identifier, sequence
ECHO_REQUEST: Final = 8
ECHO_REPLY: Final = 0
EVERY: Final = 0.5  # seconds between two echoes


def wait_for_echo(device: str, seconds: float) -> float:
    """Send echoes until one comes back; return its round-trip time in seconds, or raise OperatorError."""
    deadline = time.monotonic() + max(seconds, EVERY)
    sent: dict[int, float] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        # Bound to the device: a reply proves the tunnel, whatever the routes say.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        identifier = int.from_bytes(os.urandom(2), "big")
        while (now := time.monotonic()) < deadline:
            sequence = len(sent) & 0xFFFF
            sent[sequence] = now
            sock.sendto(echo_request(identifier, sequence), (INNER4_EXIT, 0))
            answered = _receive(sock, identifier, min(deadline, now + EVERY))
            if answered in sent:
                return time.monotonic() - sent[answered]
    raise OperatorError(
        f"the circuit is built but no packet came back through it in {seconds:.0f} s",
        "try another exit (--exit), or look at the exit's log",
    )


def echo_request(identifier: int, sequence: int) -> bytes:
    """Return an ICMP echo request without payload."""
    total = (ECHO_REQUEST << 8) + identifier + sequence
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return ECHO.pack(ECHO_REQUEST, 0, checksum, identifier, sequence)


def _receive(sock: socket.socket, identifier: int, deadline: float) -> int:
    """Return the sequence number of the next reply to us, or -1 when none comes in time."""
    while (left := deadline - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            packet = sock.recv(2048)
        except TimeoutError:
            break
        header = (packet[0] & 0x0F) * 4
        if len(packet) < header + ECHO.size:
            continue
        kind, _, _, theirs, sequence = ECHO.unpack_from(packet, header)
        if kind == ECHO_REPLY and theirs == identifier:
            return int(sequence)
    return -1
