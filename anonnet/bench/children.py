"""Processes of a benchmark: forked, in a namespace of their own if need be, and ended with it."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pyroute2 import netns

from anonnet.errors import OperatorError
from anonnet.lab.place import Place
from anonnet.node.privileges import die_with_parent


def own_place() -> Place:
    """Return where this process keeps namespaces and labs: not under /tmp, which daemons cannot read."""
    return Place(Path(f"/run/anonnet-bench-{os.getpid()}"), f"anbench{os.getpid()}-")


def require_root() -> None:
    """OperatorError for users who may not make network namespaces."""
    if os.geteuid() != 0:
        raise OperatorError(
            "this benchmark makes network namespaces", "run it as root, for instance with sudo"
        )


def fork(work: Callable[[], None], space: str | None = None) -> int:
    """Do something for ever in a process of its own, in a network namespace if one is named."""
    # KeyboardInterrupt would be lost while Python forks; and ^C is for the parent, which then ends the child.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if pid == 0:
        try:
            die_with_parent(signal.SIGKILL)
            if space is not None:
                netns.pushns(space)
            work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return pid


def end_all(children: Sequence[int]) -> None:
    """Kill what was forked."""
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def burn() -> None:
    """Take all the time that nobody more important wants."""
    while True:
        pass


def cpu_ns(pid: int) -> int:
    """Return the CPU time that a process has used; the clock is what clock_getcpuclockid(3) would say."""
    return time.clock_gettime_ns(~pid << 3 | 2)


@contextmanager
def entered(space: str) -> Iterator[None]:
    """Be in another network namespace for a while; sockets opened there stay there."""
    netns.pushns(space)
    try:
        yield
    finally:
        netns.popns()
