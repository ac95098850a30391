"""What the daemon tells systemd of itself, look by look.

READY=1       sockets of the links are open, the control socket is attended to, the data plane has sent
STATUS=...    one line for people, in `systemctl status`
WATCHDOG=1    control *and* data plane have done their work just now; held back, systemd starts us anew
"""

from __future__ import annotations

import asyncio
from typing import Final

from anonnet.node.control import Control
from anonnet.node.notify import Notifier
from anonnet.proto.orders import Stats

EVERY_SECONDS: Final = 1.0
FRESH_NS: Final = 2_000_000_000  # the data plane counts twice a second, each time after it has sent


class Vitals:
    """What is said at each look depends on what was said before."""

    def __init__(self) -> None:
        self._ready = False
        self._status = ""

    def look(self, stats: Stats | None, now: int, serving: bool, status: str) -> list[str]:
        """Return the lines to say.

        `stats`: the newest that came from the data plane, None before the first; `now`: monotonic
        nanoseconds; `serving`: whether the control socket is attended to; `status`: one line for people.
        """
        alive = serving and stats is not None and now - stats.now < FRESH_NS
        lines = []
        if alive and not self._ready:
            self._ready = True
            lines.append("READY=1")
        if status != self._status:
            self._status = status
            lines.append(f"STATUS={status}")
        if alive:
            lines.append("WATCHDOG=1")
        return lines


def summary(control: Control) -> str:
    """Return the node's state in one line. It names nobody, since the journal keeps it."""
    links = control.node.links.values()
    up = sum(link.state.value == "up" for link in links)
    return f"{up} of {len(links)} links up; circuit of this host: {control.node.keepers.state.value}"


async def report(control: Control, notifier: Notifier, serving: asyncio.Task[None]) -> None:
    """Tell systemd how the node is until cancelled. That this runs shows that control does."""
    vitals = Vitals()
    every = min(EVERY_SECONDS, notifier.watchdog / 4) if notifier.watchdog else EVERY_SECONDS
    while True:
        lines = vitals.look(control.node.stats, control.now(), not serving.done(), summary(control))
        if lines:
            notifier.say(*lines)
        await asyncio.sleep(every)
