r"""Whether the moments at which a caller's batches leave say if its host uses the network.

    caller ---- r1 ---- r2 ---- x1 ~~~ web      captured on the caller's wire, from outside

Each run is cut into short blocks, idle and loaded in turn, so that what the machine does by itself falls on
both alike; idle blocks against idle blocks are the control. Loaded: datagrams into the tunnel and as many
back. The caller's data plane has a core; everything else, the load and the other nodes above all, which are
no part of its host in the world outside, has the others. All cores are busy all the time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from anonnet.audit import emission, pcap
from anonnet.audit.emission import Reals
from anonnet.bench.chain import Live, live
from anonnet.bench.children import burn, end_all, fork
from anonnet.lab import namespaces, network
from anonnet.lab.place import CALLER, WEB
from anonnet.proto.profile import SECOND_NS

RATE: Final = "20m:1ms"
BLOCKS: Final = 20  # of a run; each has as many ticks as all runs of its kind need
SETTLE_SECONDS: Final = 0.15  # after a switch: what waits for cells goes on for 70 ms
PORT: Final = 9
PACKET: Final = bytes(1200)
LOAD_SHARE: Final = 0.8  # of the wire's rate that the load fills
PAUSE_SECONDS: Final = 0.002
DRAWN: Final = 2000  # values of each kind that are kept for a plot


@dataclass(frozen=True)
class Run:
    """One run: the two tests, and how late batches were against the mean of the whole run, us."""

    ticks: int  # of each kind
    p_loaded: float  # idle against loaded
    p_control: float  # idle against idle, half as many
    idle_std_us: float
    loaded_std_us: float
    idle_median_us: float
    loaded_median_us: float


@dataclass(frozen=True)
class Emission:
    """All runs."""

    rate: str
    tick_ms: float
    runs: list[Run]
    found: bool  # a difference between idle and loaded (p <= 0.01, Bonferroni)
    control_found: bool  # a difference between idle and idle, which is then the machine's
    idle_us: list[float] = field(repr=False)  # some of the last run, for a plot
    loaded_us: list[float] = field(repr=False)


def measure(runs: int, ticks: int, rate: str = RATE) -> Emission:
    """Make so many runs of so many ticks of each kind. OperatorError without root."""
    done: list[Run] = []
    with live(rate, "raw") as lab, tempfile.TemporaryDirectory() as directory:
        lab.out(CALLER, "anonnet-tun", "up", "--wait", "60")
        with _load(lab) as pid:
            for _ in range(runs):
                idle, loaded = _run(lab, pid, ticks, Path(directory) / "run.pcap")
                done.append(_judge(idle, loaded))
    p_values, controls = [run.p_loaded for run in done], [run.p_control for run in done]
    idle_us, loaded_us = (
        np.concatenate(blocks)[:: max(1, ticks // DRAWN)] / 1000 for blocks in (idle, loaded)
    )
    return Emission(
        rate, lab.schedule.tick_ns / 1e6, done, not emission.none_of(p_values),
        not emission.none_of(controls), idle_us.tolist(), loaded_us.tolist(),
    )  # fmt: skip


def _run(lab: Live, pid: int, ticks: int, file: Path) -> tuple[list[Reals], list[Reals]]:
    """Return the lateness of all batches, block by block: idle, loaded."""
    tick_ns = lab.schedule.tick_ns
    seconds = ticks * 2 / BLOCKS * tick_ns / SECOND_NS
    caller, relay = (str(lab.topology.host(name).ipv4) for name in (CALLER, "r1"))
    spans: list[tuple[int, int]] = []
    with network.Capture(lab.place, CALLER, file, expression=f"src host {caller} and dst host {relay}"):
        for block in range(BLOCKS):
            os.kill(pid, signal.SIGCONT if block % 2 else signal.SIGSTOP)
            time.sleep(SETTLE_SECONDS)
            begin = time.time_ns()
            time.sleep(seconds)
            spans.append((begin, time.time_ns()))
        os.kill(pid, signal.SIGSTOP)
    begins = emission.batches(pcap.read(file).time, tick_ns)
    late = emission.lateness(begins, tick_ns)
    blocks = [late[(begins >= begin) & (begins < end)] for begin, end in spans]
    return blocks[0::2], blocks[1::2]


def _judge(idle: Sequence[Reals], loaded: Sequence[Reals]) -> Run:
    one, other = np.concatenate(idle), np.concatenate(loaded)
    control = emission.same(np.concatenate(idle[0::2]), np.concatenate(idle[1::2]))
    return Run(
        ticks=min(len(one), len(other)),
        p_loaded=emission.same(one, other),
        p_control=control,
        idle_std_us=float(one.std()) / 1000,
        loaded_std_us=float(other.std()) / 1000,
        idle_median_us=float(np.median(one)) / 1000,
        loaded_median_us=float(np.median(other)) / 1000,
    )


@contextmanager
def _load(lab: Live) -> Iterator[int]:
    """Have a sender, stopped, and what answers it; yield the sender's process id. All cores are busy."""
    cores = sorted(os.sched_getaffinity(0))
    pause = len(PACKET) * 8 / (LOAD_SHARE * lab.profile.rate_out)
    sender = fork(partial(_send, lab.web, pause), lab.place.namespace(CALLER))
    children = [sender, fork(_answer, lab.place.namespace(WEB)), *(fork(burn) for _ in cores)]
    try:
        if len(cores) > 1:
            spaces = [lab.place.namespace(host.name) for host in lab.topology.hosts]
            for pid in (*namespaces.processes(spaces), *children[:2]):
                os.sched_setaffinity(pid, cores[1:])
            os.sched_setaffinity(lab.data_planes()[CALLER], cores[:1])
            for pid, core in zip(children[2:], cores, strict=True):
                os.sched_setaffinity(pid, {core})
        os.kill(sender, signal.SIGSTOP)
        yield sender
    finally:
        end_all(children)


def _send(address: str, pause: float) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((address, PORT))
        due = time.monotonic()
        while True:
            due = max(due + pause, time.monotonic() - PAUSE_SECONDS)  # a pause is not made up for
            with contextlib.suppress(ConnectionError):  # it does not answer yet
                sock.send(PACKET)
            time.sleep(max(0.0, due - time.monotonic()))


def _answer() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", PORT))
        while True:
            packet, source = sock.recvfrom(2048)
            sock.sendto(packet, source)
