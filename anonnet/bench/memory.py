"""Resident memory of an idle node: a real daemon, in a lab of its own, its links up."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from anonnet.lab import namespaces, network, nodes
from anonnet.lab.place import Place
from anonnet.lab.topology import build

NODE: Final = "r1"
IDLE_SECONDS: Final = 2.0
_KIB: Final = re.compile(r"^(Rss|Pss):\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True)
class ProcessMemory:
    """Of one process, in MiB: what is mapped and in memory, and its part of it when others share some."""

    rss: float
    pss: float


def measure(rate: str) -> dict[str, ProcessMemory]:
    """Return the memory of a relay's `keeper`, `control` and `data plane`. Needs root."""
    place = Place(Path(f"/run/anonnet-bench-{os.getpid()}"), f"anbench{os.getpid()}-")
    try:
        nodes.bring_up(place, build(chain=True, hops=2, rate=rate))
        time.sleep(IDLE_SECONDS)
        keeper = int((place.of(NODE) / "node.pid").read_text())
        found = {"keeper": _read(keeper)}
        for pid in namespaces.processes([place.namespace(NODE)]):
            if pid != keeper:
                real_time = os.sched_getscheduler(pid) == os.SCHED_FIFO
                found["data plane" if real_time else "control"] = _read(pid)
        return found
    finally:
        network.destroy(place)


def _read(pid: int) -> ProcessMemory:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kib = {name: int(value) for name, value in _KIB.findall(text)}
    return ProcessMemory(kib["Rss"] / 1024, kib["Pss"] / 1024)
