"""What the kernel tells whoever listens (netlink(7)): here only ever a reason to look, never read."""

from __future__ import annotations

import socket
from typing import Final

LINKS: Final = 1  # RTMGRP_LINK, linux/rtnetlink.h: devices that come, change and go


def listen(protocol: int, groups: int) -> socket.socket:
    """Return a non-blocking socket that becomes readable when something in these groups has changed."""
    listener = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
    listener.bind((0, groups))
    return listener


def drain(listener: socket.socket) -> None:
    """Forget what the kernel has said: that it said something is all that counts."""
    while True:
        try:
            listener.recv(65536)
        except BlockingIOError:
            return
        except OSError:  # ENOBUFS: it said more than there was room for
            continue
