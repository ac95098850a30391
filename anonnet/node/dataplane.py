"""The data plane process: cling to the machine, give up privileges, drive the core until told to stop."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Mapping
from typing import Final

from anonnet.crypto.suite import Suite
from anonnet.net.driver import Driver
from anonnet.node import capacity
from anonnet.node.pipe import OrderPipe
from anonnet.node.privileges import User, become, cling
from anonnet.node.sections import Config
from anonnet.proto.engine import Engine
from anonnet.proto.plane import Plane
from anonnet.spec import FORMATS

# What the native engine's ticks run, locked to the last page. They need little of other libraries: that is
# rehearsed, and locked from then on. Python's engine needs `cryptography` besides: there all is locked.
LIBRARIES: Final = ("/bin/python", "/libpython", "/anonnet/_native.", "/libc.")

log: Final = logging.getLogger("anonnet")


def run(config: Config, suite: Suite, engine: Engine, threads: int,
        sockets: Mapping[tuple[str, int], socket.socket], end: socket.socket, user: User | None,
        plane: type[Plane] = Plane) -> None:  # fmt: skip
    """Run, on so many threads, until control says so or goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C goes to the whole group; control decides when to end
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    core = plane(time.monotonic_ns(), os.urandom, randomised=config.links.interval == "randomised",
                 suite=suite, engine=engine)  # fmt: skip
    driver = Driver(core, sockets, OrderPipe(end))
    libraries = LIBRARIES if engine.name == "native" else None
    cling(config.data_plane.realtime_priority, config.data_plane.lock_memory, libraries)
    for fmt in FORMATS.values():
        capacity.measure(suite, engine, fmt)  # the rehearsal
    become(user, keep_lock=config.data_plane.lock_memory)
    # They inherit all this; and before there is any key, so that each has its own copy.
    had = engine.threads(threads)
    if had < threads:
        log.warning("only %d of %d threads can be had", had, threads)
    with contextlib.suppress(ConnectionError):
        driver.run()
