"""Resident memory of a node's processes, as the kernel counts it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from anonnet.lab.place import Place

_KIB: Final = re.compile(r"^(Rss|Pss):\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True)
class ProcessMemory:
    """Of one process, in MiB: what is mapped and in memory, and its part of it when others share some."""

    rss: float
    pss: float


def pids(place: Place, node: str) -> dict[str, int]:
    """Return the process ids of a lab's node: `keeper`, `control` and `data plane`."""
    keeper = int((place.of(node) / "node.pid").read_text())
    found = {"keeper": keeper}
    for text in Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split():
        real_time = os.sched_getscheduler(int(text)) == os.SCHED_FIFO
        found["data plane" if real_time else "control"] = int(text)
    return found


def of(place: Place, node: str) -> dict[str, ProcessMemory]:
    """Return the memory of a lab's node, by process. Needs root."""
    return {name: read(pid) for name, pid in pids(place, node).items()}


def read(pid: int) -> ProcessMemory:
    """Return the memory of one process."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kib = {name: int(value) for name, value in _KIB.findall(text)}
    return ProcessMemory(kib["Rss"] / 1024, kib["Pss"] / 1024)
