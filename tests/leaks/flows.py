"""Flows that were open before `up`: what they send afterwards, their FIN and RST included, must not leave.

    python -m tests.leaks.flows serve                 on the Internet host: talks to whoever has connected
    python -m tests.leaks.flows hold FIRST ADDRESS..  on the caller: commands talk, close on standard input

Flow n of an address binds the port of probe FIRST + n, so that its packets are known again.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import sys
import time
from typing import Final

from tests.leaks.probes import FIRST_PORT

PORT: Final = 7900
KINDS: Final = ("established tcp", "tcp to be closed", "tcp to be reset", "connected udp")
TALK_SECONDS: Final = 0.1


def serve() -> None:
    """Accept, and write a little to all, ten times a second, until killed."""
    tcp, udp = (socket.socket(socket.AF_INET6, kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM))
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for sock in (tcp, udp):
        sock.bind(("::", PORT))
        sock.setblocking(False)
    tcp.listen()
    print("ready", flush=True)
    open_: list[socket.socket] = []
    known: set[tuple[object, ...]] = set()
    while True:
        with contextlib.suppress(BlockingIOError):
            open_.append(tcp.accept()[0])
        with contextlib.suppress(BlockingIOError):
            known.add(udp.recvfrom(2048)[1])
        for sock in open_:
            with contextlib.suppress(OSError):
                sock.send(b"from the server", socket.MSG_DONTWAIT)
        for address in known:
            with contextlib.suppress(OSError):
                udp.sendto(b"from the server", address)
        time.sleep(TALK_SECONDS)


def hold(first: int, addresses: list[str]) -> None:
    """Open a flow of each kind to each address; answer every command with its name."""
    flows: list[socket.socket] = []
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        for kind in KINDS:
            sock = socket.socket(family, socket.SOCK_DGRAM if "udp" in kind else socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", FIRST_PORT + first + len(flows)))
            sock.connect((address, PORT))
            sock.send(b"hello")
            flows.append(sock)
    print("ready", flush=True)
    for command in sys.stdin:
        match command.strip():
            case "talk":
                _talk(flows)
            case "close":
                for number, sock in enumerate(flows):
                    if "reset" in KINDS[number % len(KINDS)]:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    sock.close()
        print(command.strip(), flush=True)


def _talk(flows: list[socket.socket]) -> None:
    for sock in flows:
        with contextlib.suppress(OSError):
            sock.send(b"from the caller", socket.MSG_DONTWAIT)
    while select.select(flows, [], [], 0)[0]:  # and read what came, so that it is acknowledged
        for sock in flows:
            with contextlib.suppress(OSError):
                if not sock.recv(65536, socket.MSG_DONTWAIT):
                    return


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        hold(int(sys.argv[2]), sys.argv[3:])
