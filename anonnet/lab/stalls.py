"""Did the machine itself stand still? A witness for measurements of a clockwork on a shared machine.

A process on every core, at a real-time priority above the data planes', that only sleeps and looks at the
clock: what delays it too (a hypervisor, a kernel that clears memory) is no doing of any node's. Processes,
not threads: an interpreter's lock may be held by somebody whom the data planes keep waiting.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from typing import Final

PRIORITY: Final = 60  # the data planes have 50
NAP: Final = 0.001  # seconds
NOTABLE_NS: Final = 1_000_000  # of delay; less leaves a tick whole
_FORK: Final = multiprocessing.get_context("fork")

Stall = tuple[int, int]  # begin and end, ns since the epoch


class StallWatch:
    """A context manager; afterwards `stalls` are the times at which some core stood still."""

    def __init__(self) -> None:
        self.stalls: list[Stall] = []

    @property
    def longest(self) -> int:
        """Return the longest stall, in ns; 0 if there was none to speak of."""
        return max((end - begin for begin, end in self.stalls), default=0)

    def ticks_lost(self, tick_ns: int) -> int:
        """Return how many ticks these stalls can have made one node skip, at most."""
        return sum((end - begin) // tick_ns + 1 for begin, end in self.stalls if end - begin > tick_ns // 2)

    def __enter__(self) -> StallWatch:
        self._watchers = []
        for core in sorted(os.sched_getaffinity(0)):
            here, there = _FORK.Pipe()
            watcher = _FORK.Process(target=_watch, args=(core, there), daemon=True)
            watcher.start()
            self._watchers.append((watcher, here))
            here.recv()
        return self

    def __exit__(self, *exc: object) -> None:
        for watcher, pipe in self._watchers:
            pipe.send(None)
            self.stalls += pipe.recv()
            watcher.join()


def _watch(core: int, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C is for the parent, which then ends us
    os.sched_setaffinity(0, {core})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    epoch = time.time_ns() - time.monotonic_ns()
    stalls: list[Stall] = []
    pipe.send(None)
    last = time.monotonic_ns()
    while not pipe.poll():
        time.sleep(NAP)
        now = time.monotonic_ns()
        if now - last > NAP * 1e9 + NOTABLE_NS:
            stalls.append((epoch + last, epoch + now))
        last = now
    pipe.send(stalls)
