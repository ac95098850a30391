"""What the SOCKS proxy costs beside the tunnel that it serves in: downloads through either, in turn.

caller [curl -- proxy] ---- r1 ---- r2 ---- x1 ~~~ web
"""

from __future__ import annotations

import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from anonnet.bench.chain import COMMAND_SECONDS, Live, live
from anonnet.bench.children import cpu_ns
from anonnet.errors import OperatorError
from anonnet.lab.place import CALLER

PROXY: Final = "socks5h://127.0.0.1:1080"
URL: Final = "http://{}/1GB"


@dataclass(frozen=True)
class Proxied:
    """Medians of several downloads each."""

    rate: str
    transport: str
    wire_mbit: float
    bytes: int  # of each download
    mbit: float  # goodput through the proxy
    mbit_plain: float  # and without it
    cpu_s_per_gb: float  # of the proxy's, for each GB that it carries
    cpu_s_per_gb_caller: float  # of the caller's data plane beside it
    cpu_s_per_gb_caller_plain: float  # and without the proxy


def measure(rate: str, transport: str, seconds: float, runs: int) -> Proxied:
    """Measure downloads of about so many seconds each. OperatorError without root."""
    with live(rate, transport) as lab:
        lab.up()
        size = int(lab.profile.rate_in * seconds / 8)
        plane = lab.data_planes()[CALLER]
        through, plain = [], []
        with _proxy(lab) as proxy:
            for _ in range(runs):
                through.append(_download(lab, size, [plane, proxy], "--proxy", PROXY))
                plain.append(_download(lab, size, [plane]))
    mbit, caller, own = map(statistics.median, zip(*through, strict=True))
    mbit_plain, caller_plain = map(statistics.median, zip(*plain, strict=True))
    return Proxied(
        rate, transport, lab.profile.rate_in / 1e6, size, mbit, mbit_plain, own, caller, caller_plain
    )


def _download(lab: Live, size: int, pids: list[int], *options: str) -> tuple[float, ...]:
    """Return the goodput, Mbit/s, and the CPU time of each process, s for each GB."""
    before = [cpu_ns(pid) for pid in pids]
    command = ["curl", "-sS", "--fail", "-r", f"0-{size - 1}", "-o", "/dev/null", "-w", "%{time_total}"]
    taken = float(lab.out(CALLER, *command, *options, URL.format(lab.web)))
    spent = [cpu_ns(pid) - earlier for pid, earlier in zip(pids, before, strict=True)]
    return size * 8 / taken / 1e6, *(ns / size for ns in spent)


@contextmanager
def _proxy(lab: Live) -> Iterator[int]:
    """Run the proxy; yield the id of the process that carries its bytes."""
    process = lab.popen(CALLER, ["anonnet-tun", "socks"], stderr=subprocess.STDOUT)
    try:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("SOCKS 5 at"):
                break
        else:
            raise OperatorError("the proxy does not start", said.strip()[-200:])
        yield _child(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)  # ^C is ignored by what was started in the background
        process.communicate(timeout=COMMAND_SECONDS)


def _child(pid: int) -> int:
    """Return the one child of a process, once it has one."""
    deadline = time.monotonic() + COMMAND_SECONDS
    while time.monotonic() < deadline:
        if children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            return int(children[0])
        time.sleep(0.01)
    raise OperatorError("the proxy does not start", "it has no process for its clients")
