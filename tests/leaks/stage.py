"""The lab, dressed for leak tests: a home network, a nested host, probers, and the wire watched from core.

nest ---- caller ======= core        `caller` has a home network (10.50.0.0/24, fd50::/64) on eth0 beside its
  10.77.0.2   eth0 |     port        provider's; nest is a container or virtual machine whose traffic the
                   `-- watched       caller forwards
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import msgspec

from anonnet.lab import namespaces, services
from anonnet.lab.place import CALLER, CORE, WEB
from anonnet.proto.profile import parse_profile
from anonnet.tun.routing import MARK
from tests.lab.live import WEB4, WEB6, LiveLab, until
from tests.leaks import flows
from tests.leaks.capture import Wire
from tests.leaks.probes import KINDS, Scene, Target, probes

HOME: Final = Target("LAN host", "10.50.0.1", "fd50::1")
TARGETS: Final = (
    Target("Internet", "198.51.100.7", "2001:db8:7::7"),
    HOME,
    Target("provider's DNS", WEB4, WEB6),
    Target("router's DNS", "100.64.0.1", "3fff::1"),
)
OWN: Final = Target("caller", "100.64.0.2", "3fff::2")
NEST: Final = Target("nest", "10.77.0.2", "fd77::2")
NEST_KINDS: Final = ("tcp", "udp", "icmp", "raw ip", "dns udp", "dns tcp", "dot")
NEST_FIRST, FLOWS_FIRST = 1000, 2000
IPV4_HEADER: Final = 20


class Prober:
    """`tests.leaks.probes` or `flows` in a namespace: one command a line, one line back."""

    def __init__(self, lab: LiveLab, namespace: str, module: str, *argv: str) -> None:
        command = ["ip", "netns", "exec", namespace, sys.executable, "-m", module, *argv]
        self._process = subprocess.Popen(
            command, env=services.environment(lab.place, CALLER), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._hear()

    def tell(self, command: str) -> str:
        """Send a command and return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        return self._hear()

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _hear(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, f"the prober ended: {self._process.wait()}"
        return line


class Stage:
    """A lab with probers and a watched wire; `column` fills one column of the matrix."""

    def __init__(self, lab: LiveLab, stack: ExitStack) -> None:
        self.lab = lab
        self.columns: dict[str, Counter[str]] = {}
        self.others: dict[str, Counter[str]] = {}
        self.sent: dict[str, int] = {}  # bursts of all probes
        self._bursts = 0
        self._nest = lab.place.namespace("nest")
        _dress(lab, self._nest)
        stack.callback(subprocess.run, ["ip", "netns", "del", self._nest], check=False)
        neighbours = [lab.address(name) for name in lab.topology.neighbours(CALLER)]
        links = [(own, theirs) for own in (OWN.ipv4, "10.50.0.2", "100.64.0.77") for theirs in neighbours]
        mac = lab.out(CORE, "cat", f"/sys/class/net/{CALLER}/address").strip()
        own_mac = lab.out(CALLER, "cat", "/sys/class/net/eth0/address").strip()
        scene = Scene("eth0", OWN, TARGETS, mac, own_mac, links[0][1], MARK, KINDS)
        nested = Scene("eth0", NEST, TARGETS, mac, own_mac, "", MARK, NEST_KINDS, NEST_FIRST)
        self.kinds = {probe.number: probe.kind for probe in probes(scene)}
        self.kinds |= {probe.number: f"forwarded {probe.kind}" for probe in probes(nested)}
        self.names = {probe.number: str(probe) for probe in probes(scene)}
        self.names |= {probe.number: f"forwarded {probe}" for probe in probes(nested)}
        self.flow_numbers = {
            FLOWS_FIRST + i: kind for i, kind in enumerate(kind for _ in (4, 6) for kind in flows.KINDS)
        }
        self.kinds |= self.flow_numbers
        length = parse_profile(lab.topology.rate).format.datagram_len + IPV4_HEADER
        self.wire = Wire(lab.place.namespace(CORE), CALLER, links, [length], self.names | self.flow_numbers)
        stack.callback(self.wire.close)
        module = "tests.leaks.probes"
        self.prober = Prober(lab, lab.place.namespace(CALLER), module, msgspec.json.encode(scene).decode())
        stack.callback(self.prober.end)
        self.nested = Prober(lab, self._nest, module, msgspec.json.encode(nested).decode())
        stack.callback(self.nested.end)
        stack.enter_context(lab.running(WEB, sys.executable, "-m", "tests.leaks.flows", "serve"))
        self._stack = stack

    def open_flows(self) -> Prober:
        """Open flows of every kind to the Internet host."""
        listening = ("ss", "-Hltn", f"sport = :{flows.PORT}")
        until(lambda: bool(self.lab.out(WEB, *listening)), 30, "nobody listens for flows")
        space = self.lab.place.namespace(CALLER)
        holder = Prober(self.lab, space, "tests.leaks.flows", "hold", str(FLOWS_FIRST), WEB4, WEB6)
        self._stack.callback(holder.end)
        return holder

    @property
    def unseen(self) -> list[str]:
        """Probes that have not reached the wire since the last column began."""
        return [name for number, name in self.wire.names.items() if not self.wire.probes[number]]

    def burst(self) -> None:
        """Send every probe once, and wait until the wire would have shown them."""
        self.nested.tell("burst")
        self.wire.await_mark(int(self.prober.tell("burst")))

    @contextmanager
    def column(self, name: str, *, loop: bool = False) -> Iterator[None]:
        """Watch the wire under this name while the block runs; probes go out at its end, or all the time."""
        self.wire.start()
        if loop:
            self.nested.tell("loop")
            self.prober.tell("loop")
        try:
            yield
        finally:
            self.nested.tell("rest")
            last = int(self.prober.tell("rest"))
        self.wire.await_mark(last)
        self.sent[name], self._bursts = last - self._bursts, last
        found: Counter[str] = Counter()
        for number, count in self.wire.probes.items():
            found[self.kinds[number]] += count
        self.columns[name] = found
        self.others[name] = Counter(
            {what: count for what, count in self.wire.leaks.items() if what.startswith("other")}
        )

    def leaked(self, name: str) -> int:
        """Return how many packets left that may not, in one column."""
        return self.columns[name].total() + self.others[name].total()

    def matrix(self) -> str:
        """Return the matrix: a row for each kind of probe, a column for each state, packets that left."""
        rows = list(dict.fromkeys(self.kinds.values()))
        width = max(map(len, rows)) + 2
        heads = [f"{i}" for i in range(len(self.columns))]
        lines = [f"{i:>4}  {name}" for i, name in enumerate(self.columns)]
        lines.append(
            f"targets: {', '.join(t.name for t in TARGETS)}; IPv4 and IPv6; packets on the outer wire"
        )
        lines.append(" " * width + "".join(f"{head:>6}" for head in heads))
        lines.append(f"{'(bursts sent)':<{width}}" + "".join(f"{n:>6}" for n in self.sent.values()))
        for row in rows:
            lines.append(f"{row:<{width}}" + "".join(f"{c[row]:>6}" for c in self.columns.values()))
        lines.append(f"{'other':<{width}}" + "".join(f"{c.total():>6}" for c in self.others.values()))
        lines.append(f"{'all':<{width}}" + "".join(f"{self.leaked(name):>6}" for name in self.columns))
        return "\n".join(lines)


def _dress(lab: LiveLab, nest: str) -> None:
    """Give the caller a home network and a nested host that it forwards for."""
    place = lab.place
    core, caller = place.namespace(CORE), place.namespace(CALLER)
    namespaces.ip(
        [f"addr add {HOME.ipv4}/24 dev {CALLER}", f"addr add {HOME.ipv6}/64 dev {CALLER} nodad"], core
    )
    core_mac = lab.out(CORE, "cat", f"/sys/class/net/{CALLER}/address").strip()
    namespaces.ip([
        "addr add 10.50.0.2/24 dev eth0",
        "addr add fd50::2/64 dev eth0 nodad",
        f"neigh add {HOME.ipv4} lladdr {core_mac} dev eth0",
        f"neigh add {HOME.ipv6} lladdr {core_mac} dev eth0",
    ], caller)  # fmt: skip
    namespaces.ip([f"netns add {nest}"])
    namespaces.ip([f"link add nest0 netns {caller} type veth peer name eth0 netns {nest}"])
    namespaces.ip([
        "addr add 10.77.0.1/24 dev nest0", "addr add fd77::1/64 dev nest0 nodad", "link set nest0 up",
    ], caller)  # fmt: skip
    namespaces.ip([
        "link set lo up", f"addr add {NEST.ipv4}/24 dev eth0", f"addr add {NEST.ipv6}/64 dev eth0 nodad",
        "link set eth0 up", "route add default via 10.77.0.1", "route add default via fd77::1",
    ], nest)  # fmt: skip
    forward = "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"
    lab.out(CALLER, "sh", "-ec", forward)
