"""All benchmarks by group, as one record that is written as JSON."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from anonnet.bench import chain, emission, footprint, memory, packets, parts, proxy, relay, scaling, sockets
from anonnet.bench.chain import Measured
from anonnet.bench.children import require_root
from anonnet.bench.emission import Emission
from anonnet.bench.footprint import Footprint
from anonnet.bench.memory import ProcessMemory
from anonnet.bench.packets import PacketCost
from anonnet.bench.parts import Parts
from anonnet.bench.proxy import Proxied
from anonnet.bench.relay import Bare, Forwarded
from anonnet.bench.scaling import Scaling
from anonnet.bench.sockets import SocketCost
from anonnet.errors import OperatorError
from anonnet.proto.engine import choose
from anonnet.proto.profile import parse_profile
from anonnet.spec import FORMATS

SCHEMA: Final = 3
GROUPS: Final = {  # name -> what it measures, for a person
    "micro": "stages of a hop one by one, packets at the ends, the kernel's share",
    "node": "a relay between two generators; an idle node's memory",
    "lab": "a host's traffic through a chain of real nodes; the SOCKS proxy",
    "scaling": "cost by links, routes and nodes",
    "emission": "whether moments of emission say that a host is busy (8 minutes)",
}
TRANSPORTS: Final = ("raw", "udp", "udp, one by one")
RELAYS: Final = (  # rate, transport, processes that only burn time (for each core), links, routes
    ("t3", "raw", 0, 1, 1), ("t3", "raw", 1, 1, 1), ("t3", "udp", 0, 1, 1), ("100m", "raw", 0, 1, 1),
    ("100m", "udp", 0, 1, 1), ("250m", "raw", 0, 1, 1), ("250m", "udp", 0, 1, 1),
    ("250m:5ms", "udp", 0, 1, 1), ("100m", "raw", 0, 1, 20), ("2m", "raw", 0, 50, 50),
    ("9m:narrow", "raw", 0, 1, 1),
)  # fmt: skip
BARE: Final = (("100m", "raw"), ("100m", "udp"))
CHAINS: Final = (  # rate, transport, delay of each link in ms
    ("28.8k", "raw", 0), ("modem", "raw", 0), ("t1", "raw", 0), ("t3", "raw", 0), ("t3", "raw", 20),
    ("100m", "raw", 0), ("100m:1ms", "raw", 0), ("150m:6ms", "raw", 0), ("150m:14ms", "raw", 0),
    ("250m:8ms", "udp", 0), ("250m:12ms", "udp", 0), ("380m:5ms", "udp", 0),
)  # fmt: skip
HELD: Final = ("150m:14ms", "250m:12ms")  # for a minute each way: these are not to skip a tick
QUICK_CHAINS: Final = (("10m", "raw", 0),)
PROXY: Final = ("100m", "raw", 10.0, 3)  # rate, transport, seconds of a download, how many
QUICK_PROXY: Final = ("10m", "raw", 1.0, 1)
SECONDS_OF_ROW: Final = 12.0  # of a download through 3 to 12 nodes
RUNS_OF_EMISSION: Final = 20
TICKS_OF_EMISSION: Final = 10_000
SLOW: Final = 1_000_000  # bit/s: below, a chain is only pinged, and loaded one way
RATE: Final = "t3"  # at which most limits are judged
CONGESTION: Final = Path("/proc/sys/net/ipv4/tcp_congestion_control")  # what goodput depends on, too


class Micro(msgspec.Struct):
    """Hot loops, by format."""

    parts: dict[str, Parts]
    sockets: dict[str, dict[str, SocketCost]]  # by transport; the kernel, without any cipher
    packets: dict[str, list[PacketCost]] = {}


class Relay(msgspec.Struct):
    """A relay at work; several runs, of which `cpu_us` is the median."""

    rate: str
    transport: str
    busy: int
    links: int
    routes: int
    cpu_us: float
    cells_per_core: float  # a second, if it went on like this
    runs: list[Forwarded]
    sampled: Forwarded | None = None  # one more run, of those whose own part is judged


class Node(msgspec.Struct):
    """One node."""

    relays: list[Relay]
    bare: dict[str, Bare]  # by "rate transport": datagrams passed on without AnonNet
    memory: dict[str, ProcessMemory]  # by process; of an idle relay


class Report(msgspec.Struct, omit_defaults=True):
    """Everything measured. Costs in microseconds for each cell, memory in MiB unless said otherwise."""

    schema: int
    host: dict[str, str | int | float]
    micro: Micro | None = None
    node: Node | None = None
    lab: list[Measured] = []
    proxy: Proxied | None = None
    scaling: Scaling | None = None
    footprint: Footprint | None = None
    emission: Emission | None = None


def measure(
    groups: Sequence[str], quick: bool, say: Callable[[str], None], keep: Callable[[Report], None]
) -> Report:
    """Measure the groups; `quick` for a look in seconds, not for the record. All but micro need root.

    `keep` is given what there is so far whenever there is more, for a part may fail after half an hour.
    """
    if set(groups) - {"micro", "scaling"}:
        require_root()
    host: dict[str, str | int | float] = {
        "python": platform.python_version(), "kernel": platform.release(), "machine": platform.machine(),
        "cpus": os.cpu_count() or 0, "engine": choose().name, "load": os.getloadavg()[0],
        "tcp": CONGESTION.read_text().strip(),
    }  # fmt: skip
    report = Report(SCHEMA, host)
    ticks, seconds = (100, 1.0) if quick else (1000, 5.0)
    for group in groups:
        say(f"{group}: {GROUPS[group]}")
        match group:
            case "micro":
                report.micro = _micro(ticks)
            case "node":
                report.node = _node(seconds, quick, say)
            case "lab":
                for path in _lab(quick, say):
                    report.lab.append(path)
                    keep(report)
                rate, transport, of_seconds, runs = QUICK_PROXY if quick else PROXY
                say(f"  SOCKS proxy at {rate}, {transport}")
                report.proxy = proxy.measure(rate, transport, of_seconds, runs)
            case "scaling":
                report.footprint = footprint.measure()
                nodes = os.geteuid() == 0 and not quick
                report.scaling = scaling.measure(ticks // 10, SECONDS_OF_ROW, nodes, say)
            case "emission":
                runs, of_ticks = (2, 1000) if quick else (RUNS_OF_EMISSION, TICKS_OF_EMISSION)
                report.emission = emission.measure(runs, of_ticks)
        keep(report)
    return report


def _micro(ticks: int) -> Micro:
    root = os.geteuid() == 0
    costs = {
        name: {
            transport: sockets.measure(fmt, transport[:3], ticks, transport in ("raw", "udp"))
            for transport in TRANSPORTS
            if root or transport != "raw"
        }
        for name, fmt in FORMATS.items()
    }
    return Micro(
        {name: parts.measure(fmt, ticks) for name, fmt in FORMATS.items()},
        costs,
        {name: packets.measure(fmt, ticks) for name, fmt in FORMATS.items()},
    )


def _node(seconds: float, quick: bool, say: Callable[[str], None]) -> Node:
    node = Node([], {}, {})
    for rate, transport, busy, links, routes in RELAYS[:2] if quick else RELAYS:
        say(f"  relay at {rate}, {transport}, {links} links on each side, {routes} routes")
        runs = [
            relay.forward(
                parse_profile(rate), transport, seconds, busy=busy * (os.cpu_count() or 1), links=links,
                routes=routes,
            )
            for _ in range(1 if quick else 3)
        ]  # fmt: skip
        cpu_us = statistics.median(run.cpu_us for run in runs)
        one = Relay(rate, transport, busy, links, routes, cpu_us, 1e6 / cpu_us, runs)
        node.relays.append(one)
        if (rate, busy) == (RATE, 0):
            one.sampled = _sampled(transport, seconds, say)
    for rate, transport in BARE:
        node.bare[f"{rate} {transport}"] = relay.forward_bare(parse_profile(rate), transport, seconds)
    if not quick:
        say("  memory of an idle node")
        with chain.live(RATE, "raw", hops=2) as lab:
            node.memory = memory.of(lab.place, "r1")
    return node


def _sampled(transport: str, seconds: float, say: Callable[[str], None]) -> Forwarded | None:
    try:
        return relay.forward(parse_profile(RATE), transport, 2 * seconds, sampled=True)
    except OperatorError as error:  # not every machine lets us: then nothing is said of what is whose
        say(f"    no samples: {error}")
        return None


def _lab(quick: bool, say: Callable[[str], None]) -> Iterator[Measured]:
    for rate, transport, delay_ms in QUICK_CHAINS if quick else CHAINS:
        say(f"  chain of {rate}, {transport}" + (f", {delay_ms} ms added to each link" if delay_ms else ""))
        slow = parse_profile(rate).rate_in < SLOW
        seconds = 6.0 if quick else 60.0 if slow or rate in HELD else 20.0
        flows = tuple(chain.FLOWS) if not (quick or slow or delay_ms) else ("down",)
        yield chain.measure(rate, transport, seconds, delay_ms=delay_ms, flows=flows, pages=not delay_ms)


def load(data: bytes) -> Report:
    """Read what was written; OperatorError if it is something else."""
    try:
        schema = msgspec.json.decode(data, type=_Head).schema
        if schema != SCHEMA:
            raise OperatorError(f"a record of schema {schema}, not {SCHEMA}", "measure again")
        return msgspec.json.decode(data, type=Report)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise OperatorError(f"no record of a benchmark ({error})", "make one with --json") from None


class _Head(msgspec.Struct):
    """What a record of any schema has."""

    schema: int
