r"""What is left of a wire for its user: real nodes in a lab without idle links, a host's traffic through it.

    caller ---- r1 ---- r2 ---- x1 ~~~ web

First the same namespaces without AnonNet, the kernel of each node forwarding: what there is to be had.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Final

from anonnet.bench import memory
from anonnet.bench.children import cpu_ns, end_all, entered, fork, own_place, require_root
from anonnet.bench.memory import ProcessMemory
from anonnet.errors import OperatorError
from anonnet.lab import namespaces, network, nodes, services
from anonnet.lab.place import CALLER, CORE, WEB, Place
from anonnet.lab.stalls import StallWatch
from anonnet.lab.topology import Topology, build
from anonnet.lab.weather import Rule
from anonnet.node import api
from anonnet.node.client import Client
from anonnet.proto.profile import OVERHEAD, Profile, Schedule, parse_profile

PINGS: Final = 100
PING_TICKS: Final = 10.3  # between echoes: no whole number of ticks, so that they fall anywhere in one
GETS: Final = 30
SETUPS: Final = 5
SETUPS_FROM: Final = 10_000_000  # bit/s
LEAD_SECONDS: Final = 2.0  # until a flow has its share, before echoes are sent beside it
COMMAND_SECONDS: Final = 120.0
KEYS: Final = 20
LONG_SECONDS: Final = 10.0  # for anything that is done again and again: modems do it less often
TERMINAL_PORT: Final = 7
SHAPED_BELOW: Final = 1_000_000  # bit/s: the caller's cable then carries no more than the profile says
SHAPER_BURST: Final = 1600  # bytes: a wide cell's frame
SHAPER_SPARE: Final = 50  # the line is a part in so many faster: else what once waits for it waits for ever
ETHERNET_LEN: Final = 14  # bytes, which the shaper counts and a profile does not
FLOWS: Final = {"down": ("-R",), "up": (), "both": ("--bidir",)}  # and what makes iperf3 do that


@dataclass(frozen=True)
class Echoes:
    """Round-trip times of echoes to the Internet host, ms."""

    sent: int
    lost: int
    mean: float
    median: float
    p99: float


@dataclass(frozen=True)
class Flow:
    """One TCP connection each way, or one both ways, as fast as it goes."""

    mbit: tuple[float, ...]  # goodput: down, up, or both, Mbit/s
    share: float  # of the wire's rate, one way (the lesser, if both)
    resent: int  # segments
    echoes: Echoes  # beside it
    key_ms: float  # a key press over a connection beside it, until its echo is there; median
    core: dict[str, float]  # share of a core that each node's data plane took
    cpu_s_per_gb_padded: float  # all data planes, for each GB that slots hold, both ways, used or not
    cpu_s_per_gb_carried: float  # the same for each GB of goodput
    skipped: dict[str, int]  # ticks, by node
    late: dict[str, int]  # emissions later than a millisecond, by node
    stalls_ms: list[float]  # times at which a core of this machine stood still, whatever the nodes did
    stalls_excuse: int  # ticks that these can have made one node skip, at most


@dataclass(frozen=True)
class Plain:
    """The same namespaces, packets forwarded by the kernel of each node."""

    mbit: float
    echo_ms: float


@dataclass(frozen=True)
class Measured:
    """All of it; times in ms unless said otherwise."""

    rate: str
    transport: str
    hops: int
    delay_ms: float  # that the router adds to each link
    wire_mbit: float
    tick_ms: float
    cells_per_tick: int
    load: float  # of the machine, over the minute before: 0 if it was quiet
    plain: Plain | None
    up_s: float  # `anonnet-tun up` from a running daemon
    circuit_ms: float  # the part of it from the wish for a circuit until one stands
    first_byte_s: float  # from the beginning of `up` to a page's first byte
    setup_ms: list[float]  # test routes as long as a real one, from the wish to the last hop's answer
    idle: Echoes
    key_ms: float  # a key press over a connection, until its echo is there; median
    get_ms: float | None  # a small page by its address: connection, request, answer; median
    get_by_name_ms: float | None
    flows: dict[str, Flow]
    memory: dict[str, dict[str, ProcessMemory]]  # by node, by process

    @property
    def name(self) -> str:
        """What tells it from the others of a report."""
        return f"{self.rate} {self.transport}" + (f" +{self.delay_ms:g} ms" if self.delay_ms else "")

    def cpu_us(self, flow: Flow, node: str) -> float:
        """CPU time of a node's data plane for each slot that it fills on its way through, both ways."""
        return flow.core[node] * self.tick_ms * 1000 / (2 * self.cells_per_tick)


class Live:
    """A lab that is up, and what is done in it."""

    def __init__(self, place: Place, topology: Topology) -> None:
        self.place = place
        self.topology = topology
        self.profile: Profile = parse_profile(topology.rate)
        self.schedule: Schedule = self.profile.schedule(topology.transport, topology.ip)
        self.web = str(topology.web.ipv4)

    def popen(self, host: str, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start a command on a host."""
        return subprocess.Popen(
            namespaces.inside(self.place, host, command),
            env=services.environment(self.place, host),
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "text": True, **options},
        )

    def out(self, host: str, *command: str, patience: float = COMMAND_SECONDS) -> str:
        """Run a command on a host and return what it printed; OperatorError if it fails."""
        process = self.popen(host, command, stderr=subprocess.PIPE)
        try:
            said, complained = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise OperatorError(f"`{' '.join(command)}` on {host} does not end", "is it up?") from None
        if process.returncode:
            raise OperatorError(f"`{' '.join(command)}` on {host} failed", (complained or said).strip())
        return said

    def status(self, host: str) -> api.Status:
        """Return what a node's daemon says of itself."""
        found = nodes.status(self.place, host)
        if found is None:
            raise OperatorError(
                f"the daemon of {host} does not answer", f"see {self.place.of(host)}/node.log"
            )
        return found

    def data_planes(self) -> dict[str, int]:
        """Return the process id of each node's data plane."""
        return {host.name: memory.pids(self.place, host.name)["data plane"] for host in self.topology.nodes}

    def up(self, host: str = CALLER) -> float:
        """Bring a host up; return how long its circuit took, ms. OperatorError if it fails."""
        process = self.popen(host, ["anonnet-tun", "up", "--wait", "60"])
        assert process.stdout is not None
        with process:
            said = [(time.monotonic(), line) for line in process.stdout]
        text = "".join(line for _, line in said)
        if process.returncode:
            raise OperatorError(f"the host {host} does not come up", text.strip()[-200:])
        asked, *_, stood = (at for at, line in said if line.startswith("circuit"))
        return (stood - asked) * 1000

    def ping(self, count: int, host: str = CALLER) -> Echoes:
        """Send echoes from a host to the Internet host."""
        interval = self._interval
        options = ["-n", "-c", str(count), "-i", f"{interval:.4f}", "-W", "10"]
        process = self.popen(host, ["ping", *options, self.web])
        said = process.communicate(timeout=count * interval + COMMAND_SECONDS)[0]
        times = sorted(
            float(line.split("time=")[1].split()[0]) for line in said.splitlines() if "time=" in line
        )
        if not times:
            raise OperatorError(f"no echo from {self.web} came back", said.strip()[-200:])
        p99 = times[min(len(times) - 1, len(times) * 99 // 100)]
        return Echoes(count, count - len(times), statistics.fmean(times), statistics.median(times), p99)

    def get(self, url: str, count: int) -> float:
        """Return what it takes to fetch a page, each time over a connection of its own; median, ms."""
        times = [
            float(self.out(CALLER, "curl", "-sS", "--fail", "-o", "/dev/null", "-w", "%{time_total}", url))
            for _ in range(count)
        ]
        return statistics.median(times) * 1000

    def keys(self, count: int) -> float:
        """Press keys at a distant terminal; return what it takes until one is echoed, median, ms."""
        with entered(self.place.namespace(WEB)):
            listener = socket.create_server((self.web, TERMINAL_PORT))
        with listener:
            terminal = fork(partial(_echo, listener))
        try:
            with entered(self.place.namespace(CALLER)):
                line = socket.create_connection((self.web, TERMINAL_PORT), timeout=COMMAND_SECONDS)
            with line:
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return statistics.median(_press(line, self._interval) for _ in range(count)) * 1000
        finally:
            end_all([terminal])

    def setup(self) -> float:
        """Build a route for a test and take it down; return how long its making took, ms."""
        client = Client(self.place.of(CALLER) / "run")
        steps: list[tuple[float, str]] = []
        client.call(
            api.Debug(1),
            api.Circuits,
            on_progress=lambda progress: steps.append((time.monotonic(), progress.text)),
            timeout=COMMAND_SECONDS,
        )
        last = f"hop {self.topology.hops} of {self.topology.hops}:"
        asked, answered = (next(at for at, text in steps if text.startswith(s)) for s in ("create:", last))
        return (answered - asked) * 1000

    def flow(self, kind: str, seconds: float) -> Flow:
        """Run iperf3 for so long, and echoes beside it."""
        planes = self.data_planes()
        before, cpu, began = self.links(), cpu_of(planes), time.monotonic()
        command = ["iperf3", "-J", "-c", self.web, "-t", f"{seconds:g}", *FLOWS[kind]]
        with StallWatch() as watch:
            process = self.popen(CALLER, command)
            time.sleep(LEAD_SECONDS)
            left = seconds - 2 * LEAD_SECONDS
            beside = self.ping(self.most(left / 2))
            key_ms = self.keys(min(KEYS, self.most(left / 4)))
            said = process.communicate(timeout=seconds + COMMAND_SECONDS)[0]
        took, used, after = time.monotonic() - began, cpu_of(planes), self.links()
        end = json.loads(said).get("end", {})
        if "sum_received" not in end:
            raise OperatorError("iperf3 failed", said.strip()[-200:])
        sums = [end[name] for name in ("sum_received", "sum_received_bidir_reverse") if name in end]
        mbit = tuple(one["bits_per_second"] / 1e6 for one in sums)
        spent = {name: (used[name] - cpu[name]) / 1e9 for name in planes}
        fmt = self.profile.format
        sent, received = (after[CALLER][n] - before[CALLER][n] for n in ("sent", "received"))
        return Flow(
            mbit=mbit,
            share=min(mbit) * 1e6 / self.profile.rate_in,
            resent=end["sum_sent"]["retransmits"],
            echoes=beside,
            key_ms=key_ms,
            core={name: value / took for name, value in spent.items()},
            cpu_s_per_gb_padded=sum(spent.values()) / ((sent + received) * fmt.content_len / 1e9),
            cpu_s_per_gb_carried=sum(spent.values()) / (sum(one["bytes"] for one in sums) / 1e9),
            skipped=difference(before, after, "skipped"),
            late=difference(before, after, "late"),
            stalls_ms=[(end - begin) / 1e6 for begin, end in watch.stalls],
            stalls_excuse=watch.ticks_lost(self.schedule.tick_ns),
        )

    @property
    def _interval(self) -> float:
        """Seconds between echoes."""
        return PING_TICKS * self.schedule.tick_ns / 1e9

    def most(self, seconds: float) -> int:
        """Return how many echoes to send in about so many seconds."""
        return min(PINGS, max(5, int(seconds / self._interval)))

    def links(self) -> dict[str, dict[str, int]]:
        """Return what each node's links did so far, in all."""
        found = {}
        for host in self.topology.nodes:
            links = self.status(host.name).links
            found[host.name] = {
                "sent": sum(link.cells_sent for link in links),
                "received": sum(link.cells_received for link in links),
                "skipped": sum(link.skipped_ticks for link in links),
                "late": sum(link.late_ticks for link in links),
            }
        return found


@contextmanager
def live(
    rate: str, transport: str, hops: int = 3, *, forwarded: Callable[[Live], None] | None = None
) -> Iterator[Live]:
    """Bring a chain up with its links, without a circuit yet; remove all of it afterwards.

    `forwarded` is called before there are daemons, while the nodes' kernels forward the caller's packets.
    """
    with running(build(chain=True, hops=hops, rate=rate, transport=transport), forwarded) as lab:
        yield lab


@contextmanager
def running(topology: Topology, forwarded: Callable[[Live], None] | None = None) -> Iterator[Live]:
    """Do the same with any lab; only a chain can be `forwarded`."""
    place = own_place()
    try:
        network.create(place, topology)
        lab = Live(place, topology)
        if forwarded is not None:
            with _kernel_forwarding(lab):
                forwarded(lab)
        nodes.prepare(place, topology)
        nodes.start(place, topology)
        yield lab
    finally:
        network.destroy(place)


def measure(
    rate: str, transport: str, seconds: float, *, hops: int = 3, delay_ms: float = 0,
    flows: Sequence[str] = tuple(FLOWS), pages: bool = True,
) -> Measured:  # fmt: skip
    """Measure a chain; without `pages`, its circuit, echoes and flows only. OperatorError if a part fails."""
    require_root()
    load = os.getloadavg()[0]
    baseline: list[Plain] = []

    def forwarded(lab: Live) -> None:
        said = json.loads(lab.out(CALLER, "iperf3", "-J", "-c", lab.web, "-R", "-t", f"{min(seconds, 5):g}"))
        echo = lab.ping(20).median
        baseline.append(Plain(said["end"]["sum_received"]["bits_per_second"] / 1e6, echo))

    with live(rate, transport, hops, forwarded=forwarded if pages else None) as lab:
        if delay_ms:
            network.set_weather(lab.place, Rule(delay=round(delay_ms * 1e6)))
        if lab.profile.rate_in < SHAPED_BELOW:
            shape(lab)
        few = lab.most(LONG_SECONDS)
        # A test route has a 128th of the slots: on slow links it takes minutes, and measures nothing else.
        fast = lab.profile.rate_in >= SETUPS_FROM
        setups = [lab.setup() for _ in range(SETUPS)] if pages and fast else []
        began = time.monotonic()
        circuit_ms = lab.up()
        up_s = time.monotonic() - began
        lab.out(CALLER, "curl", "-sS", "--fail", "-r", "0-0", "-o", "/dev/null", f"http://{lab.web}/1MB")
        first_byte_s = time.monotonic() - began
        idle = lab.ping(few)
        return Measured(
            rate=rate, transport=transport, hops=hops, delay_ms=delay_ms,
            wire_mbit=lab.profile.rate_in / 1e6, tick_ms=lab.schedule.tick_ns / 1e6,
            cells_per_tick=lab.schedule.cells_in, load=load, plain=baseline[0] if baseline else None,
            up_s=up_s, circuit_ms=circuit_ms, first_byte_s=first_byte_s, setup_ms=setups,
            idle=idle, key_ms=lab.keys(min(KEYS, few)),
            get_ms=lab.get(f"http://{lab.web}/", min(GETS, few)) if pages else None,
            get_by_name_ms=lab.get("http://web.lab/", min(GETS, few)) if pages else None,
            flows={kind: lab.flow(kind, seconds) for kind in flows},
            memory={host.name: memory.of(lab.place, host.name) for host in lab.topology.nodes},
        )  # fmt: skip


def shape(lab: Live, limit: int = 2 * SHAPER_BURST) -> None:
    """Let the caller's cable carry what the profile says and hardly more, like a modem's line.

    `limit`: bytes that may wait for it.
    """
    length = lab.profile.format.datagram_len + OVERHEAD[lab.topology.transport, 4]
    for space, device, rate in (
        (CALLER, "eth0", lab.profile.rate_out),
        (CORE, CALLER, lab.profile.rate_in),
    ):
        bits = -(-rate * (length + ETHERNET_LEN) // length)
        bits += bits // SHAPER_SPARE
        shaper = ["tbf", "rate", f"{bits}bit", "burst", str(SHAPER_BURST), "limit", str(limit)]
        lab.out(space, "tc", "qdisc", "add", "dev", device, "root", *shaper)


def _echo(listener: socket.socket) -> None:
    line, _ = listener.accept()
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while True:
        line.sendall(line.recv(64))


def _press(line: socket.socket, pause: float) -> float:
    """Press a key after a pause; return how long its echo takes, in seconds."""
    time.sleep(pause)
    began = time.monotonic()
    line.sendall(b"k")
    line.recv(1)
    return time.monotonic() - began


@contextmanager
def _kernel_forwarding(lab: Live) -> Iterator[None]:
    """Let packets between caller and web pass each node as cells will: the router goes by the port."""
    names = [host.name for host in lab.topology.nodes]
    caller, web = str(lab.topology.host(CALLER).ipv4), lab.web
    there = [*names, "web"]
    rules: list[str] = []
    for table, (ports, source, target) in enumerate(((there, caller, web), (there[::-1], web, caller)), 200):
        for number, (port, onward) in enumerate(list(pairwise(ports))[:-1]):
            gateway = lab.topology.host(onward).ipv4
            own = table * 100 + number
            rules += [
                f"route add default via {gateway} dev {onward} table {own}",
                f"rule add priority {own} from {source} to {target} iif {port} lookup {own}",
            ]
    for name in names[1:]:
        _forward(lab.place, name, True)
    core = lab.place.namespace(CORE)
    namespaces.ip(rules, core, "-4")
    try:
        yield
    finally:
        undo = [line.replace(" add ", " delete ", 1) for line in rules]
        namespaces.ip(undo, core, "-4")
        for name in names[1:]:
            _forward(lab.place, name, False)


def _forward(place: Place, host: str, on: bool) -> None:
    text = f"echo {int(on)} > /proc/sys/net/ipv4/ip_forward"
    subprocess.run(namespaces.inside(place, host, ["sh", "-c", text]), check=True)


def cpu_of(planes: Mapping[str, int]) -> dict[str, int]:
    """Return the CPU time that each data plane has used, ns."""
    return {name: cpu_ns(pid) for name, pid in planes.items()}


def difference(
    before: Mapping[str, dict[str, int]], after: Mapping[str, dict[str, int]], what: str
) -> dict[str, int]:
    """Return what has been added to one count of each node's links."""
    return {name: after[name][what] - before[name][what] for name in before}
