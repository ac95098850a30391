r"""Many hosts at once: real nodes in a mesh, relays for one another, every third one's host a user, too.

n1 -- n2 -- n3 -- n4 -- ..        a ring, each node linked with its next two on either side;
  \___ ___/ \___ ___/             n1, n4, n7 .. call, the last of each three is an exit
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from anonnet.bench import chain
from anonnet.bench.chain import Live, cpu_of, difference
from anonnet.bench.children import require_root
from anonnet.errors import OperatorError
from anonnet.lab import services
from anonnet.lab.place import WEB
from anonnet.lab.stalls import StallWatch
from anonnet.lab.topology import Host, Link, Role, Topology

REACH: Final = 2  # a node's neighbours on either side of the ring
THIRD: Final = 3  # one caller and one exit among so many
FIRST_PORT: Final = 5202  # of the servers of iperf3: one serves one caller at a time
ECHOES: Final = 40


@dataclass(frozen=True)
class Mesh:
    """What a mesh carries while all its callers download at once; times in ms."""

    nodes: int
    links: int
    callers: int
    hops: int
    rate: str  # of each link
    circuit_ms: list[float]  # of each caller, one after the other, all others' standing
    echo_ms: list[float]  # of each caller, with nothing else going on; mean
    mbit: list[float]  # each caller's goodput, all at once
    cell_us: dict[str, float]  # by node: CPU time of its data plane for each cell that it sends, used or not
    skipped: dict[str, int]  # ticks, by node
    stalls_excuse: int  # ticks that the machine can have made one node skip, at most

    @property
    def relays(self) -> list[float]:
        """CPU time for a cell at those nodes that are neither caller nor exit, us."""
        return [us for number, us in enumerate(self.cell_us.values()) if number % THIRD == 1]


def lay_out(nodes: int, rate: str, transport: str = "raw") -> Topology:
    """Lay out a mesh of so many nodes, a multiple of three; three hops, if there are nodes for them."""
    roles = (Role.CALLER, Role.RELAY, Role.EXIT)
    hosts = [Host(f"n{index + 1}", roles[index % THIRD], index) for index in range(nodes)]
    pairs = {frozenset((at, (at + step) % nodes)) for at in range(nodes) for step in range(1, REACH + 1)}
    links = [Link(*(hosts[at].name for at in sorted(pair))) for pair in sorted(pairs, key=sorted)]
    hops = min(3, nodes - 1)
    return Topology((*hosts, Host(WEB, Role.WEB, -1)), tuple(links), hops, rate, transport)


def measure(nodes: int, rate: str, seconds: float) -> Mesh:
    """Measure a mesh; OperatorError if a part of it fails."""
    require_root()
    topology = lay_out(nodes, rate)
    callers = [host.name for host in topology.nodes if host.role is Role.CALLER]
    with chain.running(topology) as lab:
        for port, _ in enumerate(callers, FIRST_PORT):
            services.start(lab.place, WEB, f"iperf3-{port}", ["iperf3", "-s", "-p", str(port)])
        circuits = [lab.up(name) for name in callers]
        echoes = [lab.ping(ECHOES, name).mean for name in callers]
        planes = lab.data_planes()
        before, cpu = lab.links(), cpu_of(planes)
        with StallWatch() as watch:
            mbit = _download(lab, callers, seconds)
        used, after = cpu_of(planes), lab.links()
        sent = difference(before, after, "sent")
        return Mesh(
            nodes=nodes, links=len(topology.links), callers=len(callers), hops=topology.hops, rate=rate,
            circuit_ms=circuits, echo_ms=echoes, mbit=mbit,
            cell_us={name: (used[name] - cpu[name]) / sent[name] / 1000 for name in planes},
            skipped=difference(before, after, "skipped"),
            stalls_excuse=watch.ticks_lost(lab.schedule.tick_ns),
        )  # fmt: skip


def _download(lab: Live, callers: Sequence[str], seconds: float) -> list[float]:
    """Let all callers download at once; return what each got, Mbit/s."""
    command = ["iperf3", "-J", "-c", lab.web, "-R", "-t", f"{seconds:g}", "-p"]
    flows = [lab.popen(name, [*command, str(port)]) for port, name in enumerate(callers, FIRST_PORT)]
    deadline = time.monotonic() + seconds + chain.COMMAND_SECONDS
    said = [flow.communicate(timeout=deadline - time.monotonic())[0] for flow in flows]
    ends = [json.loads(text).get("end", {}) for text in said]
    for text, end in zip(said, ends, strict=True):
        if "sum_received" not in end:
            raise OperatorError("iperf3 failed", text.strip()[-200:])
    return [end["sum_received"]["bits_per_second"] / 1e6 for end in ends]
