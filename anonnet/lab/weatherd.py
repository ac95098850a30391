"""The router's weather: a process in core through which chosen packets pass.

    port r1 -> ip rule -> table 77 -> anwx0 (TUN) -> this process: Weather -> anwx0 -> table main -> port r2

The kernel has no netem, and a TUN detour works for IPv4 and IPv6 on any kernel. Run as
`python -m anonnet.lab.weatherd DIRECTORY` with the rule in DIRECTORY/weather.json; counts are written to
DIRECTORY/counts.json once a second and at the end.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from pytun import IFF_NO_PI, IFF_TUN, TunTapDevice

from anonnet.lab.topology import NODES4, NODES6, Host
from anonnet.lab.weather import Rule, Weather

DEVICE: Final = "anwx0"
TABLE: Final = 77
FAMILIES: Final = {"-4": str(NODES4), "-6": str(NODES6)}  # option of ip, prefix of all nodes
BATCH: Final = 64  # packets read before those due are written
_PRIORITY: Final = 100
REAL_TIME: Final = 40  # below the data planes', which have 50: how long a wire is depends on nobody's load


def detour(family: str, hosts: Iterable[Host] | None, *, everything: bool = False) -> list[str]:
    """Return the `ip FAMILY -batch` lines, run in core, that lead packets through DEVICE.

    By default those between any two nodes, which is what links are made of; with `hosts`, only to and from
    these; with `everything`, also to and from the web host.
    """
    nodes = FAMILIES[family]
    others = "all" if everything else nodes
    if hosts is None:
        pairs = [(others, others)]
    else:
        chosen = [str(host.ipv4 if family == "-4" else host.ipv6) for host in hosts]
        pairs = [pair for address in chosen for pair in ((address, others), (others, address))]
    return [
        f"route add default dev {DEVICE} table {TABLE}",
        f"rule add priority {_PRIORITY} iif {DEVICE} lookup main",
        *(f"rule add priority {_PRIORITY + 1} from {a} to {b} lookup {TABLE}" for a, b in pairs),
    ]


def undo_detour() -> Sequence[str]:
    """Return lines to repeat, for each family, until ip refuses; the route goes with the device."""
    return [f"rule delete priority {priority}" for priority in (_PRIORITY + 1, _PRIORITY)]


def main(directory: Path) -> None:
    """Create the device, say so by creating the file `ready`, and pass packets until SIGTERM."""
    weather = Weather(msgspec.json.decode((directory / "weather.json").read_bytes(), type=Rule))
    device = TunTapDevice(name=DEVICE, flags=IFF_TUN | IFF_NO_PI)
    device.mtu = 1500
    device.up()
    with contextlib.suppress(OSError):
        Path(f"/sys/class/net/{DEVICE}/tx_queue_len").write_text("10000")
    fd = device.fileno()
    os.set_blocking(fd, False)
    stopped = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(REAL_TIME))
    (directory / "ready").touch()
    report_at = 0
    while not stopped:
        now = time.monotonic_ns()
        _read(fd, weather, now)
        _write(fd, weather.due(now))
        if now >= report_at:
            _report(directory, weather)
            report_at = now + 10**9
        wake = min(report_at, weather.next_deadline() or report_at)
        select.select([fd], [], [], max(wake - time.monotonic_ns(), 0) / 1e9)
    _write(fd, weather.due(time.monotonic_ns() + 10**12))  # what is still in flight arrives early, not never
    _report(directory, weather)


def _read(fd: int, weather: Weather, now: int) -> None:
    with contextlib.suppress(BlockingIOError):
        for _ in range(BATCH):
            weather.submit(os.read(fd, 2048), now)


def _write(fd: int, packets: Iterable[bytes]) -> None:
    for packet in packets:
        with contextlib.suppress(OSError):  # the kernel refuses it, as a router drops it
            os.write(fd, packet)


def _report(directory: Path, weather: Weather) -> None:
    temporary = directory / "counts.json.new"
    temporary.write_bytes(msgspec.json.encode(dict(weather.counts)))
    temporary.rename(directory / "counts.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
