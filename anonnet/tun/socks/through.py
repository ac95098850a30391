"""Sockets that reach the tunnel and nothing else, and how to notice that the tunnel has gone.

A socket bound to a device (SO_BINDTODEVICE, socket(7)) keeps the device's index: when the device has gone,
what it sends fails, and is never routed elsewhere. So nothing here can fall back to the plain Internet.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from typing import Final

from anonnet.errors import OperatorError
from anonnet.tun import news
from anonnet.wire.socks import Address

_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A TUN device that is there now."""

    device: str
    index: int

    @classmethod
    def find(cls, device: str) -> Tunnel:
        """Return the device of that name; OperatorError if there is none."""
        try:
            return cls(device, socket.if_nametoindex(device))
        except OSError:
            raise OperatorError(f"there is no device {device}", "is the daemon still running?") from None

    def open(self, kind: socket.SocketKind, version: int, class_: int) -> socket.socket:
        """Return a non-blocking socket of that IP version whose packets bear a class in the DSCP field."""
        sock = socket.socket(_FAMILIES[version], kind | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.device.encode())
            if version == 4:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, class_ << 2)
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, class_ << 2)
        except BaseException:
            sock.close()
            raise
        return sock

    @property
    def there(self) -> bool:
        """Whether this very device still exists."""
        try:
            return socket.if_nametoindex(self.device) == self.index
        except OSError:
            return False

    async def gone(self) -> None:
        """Return when the device has gone: the daemon has ended, or another took its place."""
        changed = asyncio.Event()
        loop = asyncio.get_running_loop()
        with news.listen(socket.NETLINK_ROUTE, news.LINKS) as listener:
            loop.add_reader(listener, changed.set)
            try:
                while self.there:
                    await changed.wait()
                    changed.clear()
                    news.drain(listener)
            finally:
                loop.remove_reader(listener)


def carried(address: Address) -> bool:
    """Whether an address means anything beyond this host and its wire; exits refuse more by their policy."""
    return not (
        address.is_loopback or address.is_unspecified or address.is_multicast or address.is_link_local
    )
