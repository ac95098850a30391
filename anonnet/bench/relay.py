"""What forwarding a cell costs a relay: the CPU time of a real driver on real sockets; and without AnonNet.

    ends                             relay
    caller 198.18.0.1 --.                                    two namespaces, one cable, three processes;
                        eth0 ------- eth0 198.18.0.2         a route of two hops owns every slot
    exit   198.18.0.3 --'

The relay's process does nothing else. What the kernel does for it counts too: in full for its sends, which
on a veth carry each datagram up to the neighbour's socket, as the neighbours' sends do for it.
"""

from __future__ import annotations

import json
import mmap
import multiprocessing
import os
import select
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from multiprocessing.sharedctypes import Synchronized
from typing import Final

from anonnet.bench.children import burn, cpu_ns, end_all, entered, fork, own_place, require_root
from anonnet.bench.planes import Site, lay_routes
from anonnet.bench.sampled import Sampler, Shares
from anonnet.lab import namespaces
from anonnet.lab.place import Place
from anonnet.net.driver import Driver
from anonnet.net.mmsg import BATCH, Departure, Receiver, Sender
from anonnet.net.sockets import Listening, open_sockets
from anonnet.node import pipe
from anonnet.node.privileges import cling
from anonnet.node.sections import DataPlaneSection
from anonnet.proto import orders as o
from anonnet.proto.inbox import STRIDE, Outbox
from anonnet.proto.pacer import Beat
from anonnet.proto.plane import Plane
from anonnet.proto.profile import Profile
from anonnet.spec import IP_PROTOCOL, UDP_PORT

NET: Final = "198.18.0."  # RFC 2544: for benchmarks
SETTLE_SECONDS: Final = 1.8  # until queues are filled and the clock of the processor is up
PATIENCE_SECONDS: Final = 5.0  # a relay that is so late has failed
START_NS: Final = 50_000_000  # from when all processes are ready to the first tick
READY_SECONDS: Final = 30.0  # a child of a big process takes long to lock its memory
PARTIES: Final = 4  # two ends, the relay and whoever watches
MARK: Final = 1
Sockets = dict[tuple[str, int], socket.socket]


@dataclass(frozen=True)
class Forwarded:
    """What a relay did for a while."""

    cells: int  # forwarded, both ways
    missing: int  # did not come in time
    cpu_us: float  # for each cell, the kernel's part included
    cpu_share: float  # of one core
    late_std_us: float  # standard deviation of (emission - deadline)
    late_median_us: float
    late_worst_us: float
    skipped: int  # ticks
    shares: Shares | None = None  # of cpu_us


@dataclass(frozen=True)
class Bare:
    """What a relay without AnonNet did."""

    cells: int
    cpu_us: float  # for each cell, the kernel's part included


class _Gate:
    """Where all processes of a rig wait for each other: a relay must not stand still as its routes begin."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("fork")
        self._opened: Synchronized[int] = context.Value("q", 0)
        self._barrier = context.Barrier(PARTIES, self._open)

    def _open(self) -> None:
        self._opened.value = time.monotonic_ns()

    def wait(self) -> int:
        """Return when the last of them came (ns, monotonic). BrokenBarrierError if one did not."""
        self._barrier.wait(READY_SECONDS)
        return self._opened.value


class _Watched(Plane):
    """A plane that notes how late each emission began, and says so beside its statistics."""

    def __init__(self, now: int, random: Callable[[int], bytes]) -> None:
        super().__init__(now, random)
        self.lateness: list[int] = []  # ns

    def emitted(self, beat: Beat, began: int, took: int = 0) -> None:
        """Note when this emission began."""
        self.lateness.append(began - beat.deadline)
        super().emitted(beat, began, took)

    def _stats(self, now: int) -> o.Stats:
        text = json.dumps(self.lateness)  # the one report with room for it
        self.lateness.clear()
        self.reports.append(o.Fault(text))
        return super()._stats(now)


def forward(
    profile: Profile, transport: str, seconds: float, *, busy: int = 0, links: int = 1, routes: int = 1,
    sampled: bool = False,
) -> Forwarded:  # fmt: skip
    """Run a relay for a while, beside `busy` processes that only burn time. OperatorError without root.

    It has so many links to either end, of that profile each, and so many routes from link to link. To be
    sampled costs it time, which is in the kernel's share.
    """
    with _rig(profile, transport, links, routes) as rig:
        relay, sockets = rig.relay, rig.sockets
        pids = rig.start()
        ours, theirs = pipe.pair()
        with ours, theirs:
            pid = fork(partial(_drive, relay, sockets, theirs, rig.gate))
            pids += [pid, *(fork(burn) for _ in range(busy))]
            rig.gate.wait()
            with closing(Sampler(pid)) if sampled else nullcontext() as sampler:
                return _watch(pipe.ReportPipe(ours), pid, seconds, sampler)


def forward_bare(profile: Profile, transport: str, seconds: float) -> Bare:
    """Run a relay that only sends datagrams on, once a tick: no cipher, no route, no pacing."""
    with _rig(profile, transport, 1, 1) as rig:
        pids = rig.start()
        count = mmap.mmap(-1, 8)
        pid = fork(partial(_pass_on, rig, count))
        pids.append(pid)
        rig.gate.wait()
        time.sleep(SETTLE_SECONDS)
        before, cpu = int.from_bytes(count, sys.byteorder), cpu_ns(pid)
        time.sleep(seconds)
        cells = int.from_bytes(count, sys.byteorder) - before
        return Bare(cells, (cpu_ns(pid) - cpu) / cells / 1000)


class _Rig:
    """Three planes and their sockets; those of the ends are driven from `start` on."""

    def __init__(self, place: Place, profile: Profile, transport: str, links: int, routes: int) -> None:
        near, far = _cable(place)
        port = UDP_PORT if transport == "udp" else 0
        self.site = Site(*(o.Endpoint(transport, f"{NET}{host}", port) for host in (1, 2, 3)))
        self.format, self.schedule = profile.format, profile.schedule(transport, 4)
        self.gate = _Gate()
        self.relay = _Watched(START_NS, os.urandom)
        ends = Plane(START_NS, os.urandom), Plane(START_NS, os.urandom)
        lay_routes(ends[0], self.relay, ends[1], self.format, self.schedule, self.site, links, routes)
        self.sockets = _open(far, self.site.relay)
        self._ends = [
            (plane, _open(near, endpoint), pipe.pair())
            for plane, endpoint in zip(ends, (self.site.caller, self.site.exit), strict=True)
        ]
        self._children: list[int] = []

    def start(self) -> list[int]:
        """Start the ends; return a list that is for whatever else must end with them."""
        for plane, sockets, (_, theirs) in self._ends:
            self._children.append(fork(partial(_drive, plane, sockets, theirs, self.gate)))
        return self._children

    def close(self) -> None:
        """End all processes, close all sockets."""
        end_all(self._children)
        for _, sockets, ends in self._ends:
            for sock in (*sockets.values(), *ends):
                sock.close()
        for sock in self.sockets.values():
            sock.close()


@contextmanager
def _rig(profile: Profile, transport: str, links: int, routes: int) -> Iterator[_Rig]:
    require_root()
    place = own_place()
    with ExitStack() as stack:
        stack.callback(namespaces.destroy, place)
        rig = _Rig(place, profile, transport, links, routes)
        stack.callback(rig.close)
        yield rig


def _pass_on(rig: _Rig, count: mmap.mmap) -> None:
    """What a relay would be without AnonNet: everything that came in a tick goes on to the other side."""
    ((transport, _), sock), tick = next(iter(rig.sockets.items())), rig.schedule.tick_ns / 1e9
    cling(DataPlaneSection().realtime_priority, False)
    receiver, passed = Receiver(sock, transport), 0
    rig.gate.wait()
    sides = {}
    for source, target in ((rig.site.caller, rig.site.exit), (rig.site.exit, rig.site.caller)):
        outbox = Outbox(rig.format, BATCH)
        sides[source.address] = outbox, Sender(sock, target, outbox)
    while True:
        time.sleep(tick)
        more = True
        while more:
            more = receiver.receive()
            inbox = receiver.inbox
            filled = dict.fromkeys(sides, 0)
            for index in range(len(inbox.lengths)):
                address = inbox.source(index).address
                start = index * STRIDE + inbox.offset
                outbox = sides[address][0]
                outbox.views[filled[address]][:] = inbox.memory[start : start + outbox.length]
                filled[address] += 1
            passed += len(inbox.lengths)
            for address, number in filled.items():
                sender = sides[address][1]
                if number and sender.ready != number:
                    sender.lay_out(number)
            Departure([sides[address][1] for address, number in filled.items() if number]).send()
        count[:] = passed.to_bytes(8, sys.byteorder)


def _cable(place: Place) -> tuple[str, str]:
    near, far = place.namespace("ends"), place.namespace("relay")
    ends = [f"netns {space} name eth0 gso_max_segs 1" for space in (near, far)]  # as in the lab: no offload
    namespaces.ip([f"netns add {near}", f"netns add {far}", f"link add {ends[0]} type veth peer {ends[1]}"])
    for space, hosts in ((near, (1, 3)), (far, (2,))):
        namespaces.ip([*(f"addr add {NET}{host}/24 dev eth0" for host in hosts), "link set eth0 up"], space)
    return near, far


def _open(space: str, endpoint: o.Endpoint) -> Sockets:
    raw = endpoint.transport == "raw"
    no_ipv6 = "::1"  # the loopback is down in there, so no socket is opened
    with entered(space):
        return open_sockets(Listening(raw, not raw, IP_PROTOCOL, UDP_PORT, MARK, endpoint.address, no_ipv6))


def _drive(plane: Plane, sockets: Sockets, end: socket.socket, gate: _Gate) -> None:
    settings = DataPlaneSection()
    cling(settings.realtime_priority, settings.lock_memory)
    opened = gate.wait()
    Driver(plane, sockets, pipe.OrderPipe(end), lambda: time.monotonic_ns() - opened).run()


def _watch(reports: pipe.ReportPipe, pid: int, seconds: float, sampler: Sampler | None) -> Forwarded:
    """Take the relay's reports, which come twice a second, until enough time has passed."""
    began = time.monotonic()
    first: tuple[o.Stats, int] | None = None
    late: list[int] = []
    while time.monotonic() < began + SETTLE_SECONDS + seconds + PATIENCE_SECONDS:
        if not select.select([reports], (), (), PATIENCE_SECONDS)[0]:
            break
        for report in reports.receive():
            if isinstance(report, o.Fault):
                late += json.loads(report.text)
            elif isinstance(report, o.Stats):
                cpu = cpu_ns(pid)
                if first is not None and report.now - first[0].now > seconds * 1e9:
                    shares = sampler.shares() if sampler else None
                    return _difference(*first, report, cpu, late, shares)
                if first is None and time.monotonic() > began + SETTLE_SECONDS:
                    first = report, cpu
                    late.clear()
                    if sampler:
                        sampler.begin_anew()
    raise RuntimeError("the relay has stopped")


def _difference(
    first: o.Stats, first_cpu: int, last: o.Stats, last_cpu: int, late: list[int], shares: Shares | None
) -> Forwarded:
    cells, missing = (
        sum(getattr(route, what) for route in last.routes)
        - sum(getattr(route, what) for route in first.routes)
        for what in ("received", "missing")
    )
    cpu = last_cpu - first_cpu
    return Forwarded(
        cells=cells,
        missing=missing,
        cpu_us=cpu / cells / 1000,
        cpu_share=cpu / (last.now - first.now),
        late_std_us=statistics.pstdev(late) / 1000,
        late_median_us=statistics.median(late) / 1000,
        late_worst_us=max(late) / 1000,
        skipped=sum(link.skipped_ticks for link in last.links)
        - sum(link.skipped_ticks for link in first.links),
        shares=shares,
    )
