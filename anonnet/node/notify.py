"""The way to systemd: sd_notify(3), one datagram of lines to the socket that the environment names.

The protocol is stable, and its manual page invites to write it by hand; the libraries for it are no longer
kept, or wrap C for these lines.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import MutableMapping
from typing import Final

_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """Says lines to systemd; without one (`path` is ""), they go nowhere.

    `watchdog`: seconds after which a silent service is ended, 0 if nobody waits for signs of life.
    """

    def __init__(self, path: str = "", watchdog: float = 0.0) -> None:
        self._path = "\0" + path[1:] if path.startswith("@") else path
        self.watchdog = watchdog

    @classmethod
    def take(cls, environment: MutableMapping[str, str], pid: int) -> Notifier:
        """Return what the environment names for the process `pid`, and take it from those who inherit it."""
        path, micros, whose = (environment.pop(name, "") for name in _VARIABLES)
        watched = micros.isdigit() and whose in ("", str(pid))
        return cls(path, int(micros) / 1e6 if watched else 0.0)

    def say(self, *lines: str) -> None:
        """Send lines such as READY=1. A systemd that does not listen is no reason to fail."""
        if not self._path:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(lines).encode(), self._path)
