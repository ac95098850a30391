"""Every way out that a program, or a mistake, might take, in short; tests/leaks has them at length."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable

from tun_namespaces import raw, udp

from anonnet.tun.routing import MARK


def syn(to: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET) as sender:
        sender.setblocking(False)
        with contextlib.suppress(BlockingIOError):  # under way, as it should
            sender.connect((to, port))


def framed(data: bytes, mac: bytes) -> None:
    """A packet socket's own frame, which no `output` chain sees."""
    total = 20 + 8 + len(data)
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, total, 1, 0, 64, 17, 0, bytes([10, 9, 0, 2]), bytes([10, 9, 0, 1])
    )
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind(("eth0", 0x0800))
        sender.send(
            mac + b"\2\0\0\0\0\1" + b"\x08\x00" + header + struct.pack("!HHHH", 9, 9, 8 + len(data), 0) + data
        )


def probes(mac: bytes) -> list[Callable[[], None]]:
    """Every way out that a program, or a mistake, might take."""
    return [
        lambda: udp(b"probe", "198.51.100.7", 4000),
        lambda: udp(b"probe", "198.51.100.7", 53),
        lambda: udp(b"probe", "10.9.0.1", 53),
        lambda: udp(b"probe", "10.9.0.1", 4000),
        lambda: udp(b"probe", "fd09::1", 4000),
        lambda: udp(b"probe", "2001:db8::7", 4000),
        lambda: udp(b"probe", "10.9.0.1", 4000, mark=MARK),
        lambda: udp(b"probe", "10.9.0.1", 4000, device="eth0"),
        lambda: udp(b"probe", "198.51.100.7", 4000, source="10.9.0.2"),
        lambda: raw(b"probe", "10.9.0.1"),
        lambda: raw(b"probe", "198.51.100.7", MARK),
        lambda: syn("198.51.100.7", 80),
        lambda: syn("10.9.0.1", 80),
        lambda: syn("2001:db8::7", 80),
        lambda: framed(b"probe", mac),
    ]
