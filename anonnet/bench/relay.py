"""What forwarding a cell costs a relay: the CPU time of a real driver on real sockets.

    ends                             relay
    caller 198.18.0.1 --.                                    two namespaces, one cable, three processes;
                        eth0 ------- eth0 198.18.0.2         a route of two hops owns every slot
    exit   198.18.0.3 --'

The relay's process does nothing else. What the kernel does for it counts too: in full for its sends, which
on a veth carry each datagram up to the neighbour's socket, as the neighbours' sends do for it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from pyroute2 import netns

from anonnet.bench.planes import Site, lay_route
from anonnet.errors import OperatorError
from anonnet.lab import namespaces
from anonnet.lab.place import Place
from anonnet.net.driver import Driver
from anonnet.net.sockets import Listening, open_sockets
from anonnet.node import pipe
from anonnet.node.config import DataPlaneSection
from anonnet.node.privileges import cling, die_with_parent
from anonnet.proto import orders as o
from anonnet.proto.lane import PlaneLink
from anonnet.proto.pacer import Beat
from anonnet.proto.plane import Plane
from anonnet.proto.profile import Profile
from anonnet.spec import IP_PROTOCOL, UDP_PORT

NET: Final = "198.18.0."  # RFC 2544: for benchmarks
SETTLE_SECONDS: Final = 1.8  # until queues are filled and the clock of the processor is up
PATIENCE_SECONDS: Final = 5.0  # a relay that is so late has failed
START_NS: Final = 1_200_000_000  # first ticks are due when all three processes have long been running
MARK: Final = 1
Sockets = dict[tuple[str, int], socket.socket]


@dataclass(frozen=True)
class Forwarded:
    """What a relay did for a while."""

    cells: int  # forwarded, both ways
    missing: int  # did not come in time
    cpu_us: float  # for each cell
    cpu_share: float  # of one core
    late_std_us: float  # standard deviation of (emission - deadline)
    late_median_us: float
    late_worst_us: float
    skipped: int  # ticks


class _Clock:
    """The driver's clock; remembers its last two readings: at an emission's start, and at its end."""

    def __init__(self) -> None:
        self.start = self.end = 0

    def __call__(self) -> int:
        self.start, self.end = self.end, time.monotonic_ns()
        return self.end


class _Watched(Plane):
    """A plane that notes how late each emission began, and says so beside its statistics."""

    clock: _Clock

    def __init__(self, now: int, random: Callable[[int], bytes]) -> None:
        super().__init__(now, random)
        self.lateness: list[int] = []  # ns

    def emitted(self, beat: Beat, links: list[PlaneLink], now: int) -> None:
        """Note the start of this emission: `now` is its end."""
        self.lateness.append(self.clock.start - beat.deadline)
        super().emitted(beat, links, now)

    def _stats(self, now: int) -> o.Stats:
        text = json.dumps(self.lateness)  # the one report with room for it
        self.lateness.clear()
        self.reports.append(o.Fault(text))
        return super()._stats(now)


def forward(profile: Profile, transport: str, seconds: float, busy: int = 0) -> Forwarded:
    """Run a relay for a while, beside `busy` processes that only burn time. OperatorError without root."""
    if os.geteuid() != 0:
        raise OperatorError(
            "this benchmark makes network namespaces", "run it as root, for instance with sudo"
        )
    place = Place(Path(f"/run/anonnet-bench-{os.getpid()}"), f"anbench{os.getpid()}-")
    port = UDP_PORT if transport == "udp" else 0
    site = Site(*(o.Endpoint(transport, f"{NET}{host}", port) for host in (1, 2, 3)))
    children: list[int] = []
    with ExitStack() as stack:
        stack.callback(namespaces.destroy, place)
        stack.callback(_end, children)
        near, far = _cable(place)
        now = time.monotonic_ns() + START_NS
        caller, relay, exit_ = Plane(now, os.urandom), _Watched(now, os.urandom), Plane(now, os.urandom)
        lay_route(caller, relay, exit_, profile.format, profile.schedule(transport, 4), site)
        reports = []
        for plane, space, endpoint in (
            (relay, far, site.relay),
            (caller, near, site.caller),
            (exit_, near, site.exit),
        ):
            sockets = _open(space, endpoint)
            ours, theirs = pipe.pair()
            for sock in (ours, theirs, *sockets.values()):
                stack.callback(sock.close)
            children.append(_fork(partial(_drive, plane, sockets, theirs)))
            reports.append(pipe.ReportPipe(ours))
        children += [_fork(_burn) for _ in range(busy)]
        return _watch(reports, children[0], seconds)


def _end(children: list[int]) -> None:
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


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


@contextmanager
def entered(space: str) -> Iterator[None]:
    """Be in another network namespace for a while; sockets opened there stay there."""
    netns.pushns(space)
    try:
        yield
    finally:
        netns.popns()


def _drive(plane: Plane, sockets: Sockets, end: socket.socket) -> None:
    clock = _Clock()
    if isinstance(plane, _Watched):
        plane.clock = clock
    settings = DataPlaneSection()
    cling(settings.realtime_priority, settings.lock_memory)
    Driver(plane, sockets, pipe.OrderPipe(end), clock).run()


def _burn() -> None:
    while True:
        pass


def _fork(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            die_with_parent(signal.SIGKILL)
            work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return pid


def _watch(reports: list[pipe.ReportPipe], pid: int, seconds: float) -> Forwarded:
    """Take all reports, the relay's first and twice a second, until enough time has passed."""
    cpu_clock = ~pid << 3 | 2  # what clock_getcpuclockid(3) would say
    began = time.monotonic()
    first: tuple[o.Stats, int] | None = None
    late: list[int] = []
    while time.monotonic() < began + SETTLE_SECONDS + seconds + PATIENCE_SECONDS:
        ready, _, _ = select.select(reports, (), (), PATIENCE_SECONDS)
        for end in ready:
            for report in end.receive():
                if end is not reports[0]:
                    continue
                if isinstance(report, o.Fault):
                    late += json.loads(report.text)
                elif isinstance(report, o.Stats):
                    cpu = time.clock_gettime_ns(cpu_clock)
                    if first is not None and report.now - first[0].now > seconds * 1e9:
                        return _difference(*first, report, cpu, late)
                    if first is None and time.monotonic() > began + SETTLE_SECONDS:
                        first = report, cpu
                        late.clear()
    raise RuntimeError("the relay has stopped")


def _difference(first: o.Stats, first_cpu: int, last: o.Stats, last_cpu: int, late: list[int]) -> Forwarded:
    cells = last.routes[0].received - first.routes[0].received
    cpu = last_cpu - first_cpu
    return Forwarded(
        cells=cells,
        missing=last.routes[0].missing - first.routes[0].missing,
        cpu_us=cpu / cells / 1000,
        cpu_share=cpu / (last.now - first.now),
        late_std_us=statistics.pstdev(late) / 1000,
        late_median_us=statistics.median(late) / 1000,
        late_worst_us=max(late) / 1000,
        skipped=sum(link.skipped_ticks for link in last.links)
        - sum(link.skipped_ticks for link in first.links),
    )
