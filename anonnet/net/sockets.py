"""Opening the sockets that links use. Needs CAP_NET_RAW (raw sockets) and CAP_NET_ADMIN (marks, buffers)."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from typing import Final

from anonnet.errors import OperatorError

SO_MARK: Final = 36
SO_SNDBUFFORCE: Final = 32
SO_RCVBUFFORCE: Final = 33
BUFFER_LEN: Final = 4 << 20  # bytes; a second of t3 fits, so a stall of the loop loses nothing


@dataclass(frozen=True)
class Listening:
    """What to open; addresses in text."""

    raw: bool
    udp: bool
    ip_protocol: int
    udp_port: int
    mark: int
    bind4: str
    bind6: str


def open_sockets(want: Listening) -> dict[tuple[str, int], socket.socket]:
    """Return sockets by transport and IP version; OperatorError says what is missing.

    IPv6 is left out where the host has none, IPv4 never.
    """
    sockets: dict[tuple[str, int], socket.socket] = {}
    for transport, wanted in (("raw", want.raw), ("udp", want.udp)):
        for family, version, host in ((socket.AF_INET, 4, want.bind4), (socket.AF_INET6, 6, want.bind6)):
            if not wanted:
                continue
            try:
                sockets[transport, version] = _open(transport, family, host, want)
            except OSError as error:
                if version == 6 and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    continue
                for sock in sockets.values():
                    sock.close()
                raise _explain(error, transport, host, want) from None
    return sockets


def _open(transport: str, family: int, host: str, want: Listening) -> socket.socket:
    if transport == "raw":
        sock = socket.socket(family, socket.SOCK_RAW, want.ip_protocol)
    else:
        sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6 and transport == "udp":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_SOCKET, SO_MARK, want.mark)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_LEN)
        sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, BUFFER_LEN)
        sock.bind((host, want.udp_port if transport == "udp" else 0))
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _explain(error: OSError, transport: str, host: str, want: Listening) -> OperatorError:
    if error.errno in (errno.EPERM, errno.EACCES):
        return OperatorError(
            f"may not open {transport} sockets",
            "run as root, or give the daemon CAP_NET_RAW and CAP_NET_ADMIN",
        )
    if error.errno == errno.EADDRINUSE:
        hint = "stop the other program or set transport.udp_port"
        return OperatorError(f"UDP port {want.udp_port} is taken", hint)
    if error.errno == errno.EADDRNOTAVAIL:
        hint = "set transport.bind4 / bind6 to one that is"
        return OperatorError(f"{host} is not an address of this host", hint)
    return OperatorError(f"cannot open a {transport} socket on {host}", error.strerror or str(error))
