"""What a cell costs that another core has written, beside one that the same core has: copied, and sealed.

    python -m anonnet.bench.caches

A process of its own writes a batch of cells on the first core or on the second; they are read on the first.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Final

from anonnet.bench.children import end_all, fork
from anonnet.errors import OperatorError
from anonnet.proto.engine import choose
from anonnet.spec import TAG_LEN, WIDE

CELLS: Final = 64  # of a batch: all of them fit a core's second cache
LENGTH: Final = WIDE.content_len
GOES: Final = 2000
NONCE: Final = memoryview(bytes(12))


@dataclass(frozen=True)
class Read:
    """Microseconds for each wide cell; medians."""

    copied: float
    copied_from_another: float
    sealed: float
    sealed_from_another: float


def measure(goes: int = GOES) -> Read:
    """Measure so many batches each. OperatorError on a machine with one core."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise OperatorError("there is no other core here", "run it where there are two")
    cells, copy = mmap.mmap(-1, CELLS * LENGTH), bytearray(CELLS * LENGTH)
    view = memoryview(cells)
    rows = [view[index * LENGTH : (index + 1) * LENGTH] for index in range(CELLS)]
    sealed = memoryview(bytearray(LENGTH + TAG_LEN))
    seal = choose().sealer(os.urandom(32))

    def copying() -> None:
        copy[:] = view

    def sealing() -> None:
        for row in rows:
            seal(NONCE, row, None, sealed)

    try:
        os.sched_setaffinity(0, cores[:1])
        found = []
        for read in (copying, sealing):
            for writer in cores[:2]:
                with _writer(view, writer) as write:
                    found.append(_median_us(write, read, goes))
    finally:
        os.sched_setaffinity(0, cores)
    return Read(*found)


def _median_us(write: Callable[[], None], read: Callable[[], None], goes: int) -> float:
    costs = []
    for _ in range(goes):
        write()
        began = time.perf_counter_ns()
        read()
        costs.append(time.perf_counter_ns() - began)
    return statistics.median(costs) / CELLS / 1000


@contextmanager
def _writer(view: memoryview, core: int) -> Iterator[Callable[[], None]]:
    """Have a process on that core; yield what makes it write all cells anew, and waits for it."""
    here, there = socket.socketpair()

    def serve() -> None:
        os.sched_setaffinity(0, {core})
        while asked := there.recv(1):
            view[:] = asked * len(view)
            there.send(asked)

    child = fork(serve)

    def write() -> None:
        here.send(b"w")
        here.recv(1)

    try:
        with here, there:
            yield write
    finally:
        end_all([child])


if __name__ == "__main__":
    print(json.dumps({key: round(value, 3) for key, value in asdict(measure()).items()}))
