"""A lab with real daemons for one module of tests, and what tests do in it.

Each lab has a place of its own, so it meets no other; it lives while its `live` block does. Set
ANONNET_FULL=1 for the measuring windows that the project promises, instead of those that suit CI, and
ANONNET_LAB_SUITE=anonnet-2003 to run the same tests with the suite of 2003, at t1 where they would be faster.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from anonnet.crypto.suite import DEFAULT_SUITE
from anonnet.lab import namespaces, network, nodes, services
from anonnet.lab.place import CALLER, Place
from anonnet.lab.topology import Topology, build
from anonnet.node import api
from anonnet.proto.profile import Schedule, parse_profile

FULL: Final = bool(os.environ.get("ANONNET_FULL"))
WEB4: Final = "203.0.113.2"
WEB6: Final = "2001:db8:cafe::2"
EXIT_ECHO: Final = "192.0.0.1"  # the exit's inner address, which answers echoes
SLOW: Final = 30.0  # seconds that a start, an end or a change may take where others keep the machine busy
MOST: Final = 0.8  # of echoes: who stands still for a tick loses the cells that were due in it
HOST_STATE: Final = {
    "rules": "ip rule; ip -6 rule",
    "routes": "ip route show table all; ip -6 route show table all",
    "firewall": "nft -s list ruleset",
    "links": "ip -o link | grep -v LOWER_UP.*eth0",
    "resolv.conf": "cat /etc/resolv.conf",
    "sysctls": "sysctl -a 2>/dev/null | grep -E 'rp_filter|forwarding|src_valid_mark|accept_ra '",
}


class LiveLab:
    """One lab; hosts by name (caller, r1, x1, web, core)."""

    def __init__(self, place: Place, topology: Topology) -> None:
        self.place = place
        self.topology = topology

    @property
    def schedule(self) -> Schedule:
        """The schedule of the caller's links."""
        return parse_profile(self.topology.rate).schedule(self.topology.transport, self.topology.ip)

    @property
    def rate(self) -> int:
        """Bits per second of whole IP packets on each wire."""
        return parse_profile(self.topology.rate).rate_in

    def run(self, host: str, *command: str, patience: float = 90) -> subprocess.CompletedProcess[str]:
        """Run a command on a host and return how it ended."""
        return subprocess.run(
            namespaces.inside(self.place, host, command),
            env=services.environment(self.place, host),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=patience,
            check=False,
        )

    def out(self, host: str, *command: str, patience: float = 90) -> str:
        """Run a command that must succeed, and return what it printed."""
        done = self.run(host, *command, patience=patience)
        assert done.returncode == 0, f"{' '.join(command)} on {host}: {done.stdout}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def running(self, host: str, *command: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        """Let a command run on a host for as long as the block takes."""
        settings: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **options}
        process = subprocess.Popen(
            namespaces.inside(self.place, host, command),
            env=services.environment(self.place, host),
            **settings,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def up(self, *options: str) -> None:
        """`anonnet-tun up` on the caller."""
        self.out(CALLER, "anonnet-tun", "up", "--wait", "60", *options)

    def down(self) -> None:
        """`anonnet-tun down` on the caller."""
        self.out(CALLER, "anonnet-tun", "down")

    def status(self, host: str = CALLER) -> api.Status:
        """What a node's daemon says of itself."""
        found = nodes.status(self.place, host)
        assert found is not None, f"{host}: its daemon does not answer"
        return found

    def link(self, host: str, peer: str) -> api.LinkStatus:
        """One link as `host` sees it."""
        names = nodes.names(self.place)
        return next(link for link in self.status(host).links if names[link.peer] == peer)

    def links_up(self) -> bool:
        """Whether every link is up, at both ends."""
        return not any(nodes.missing_links(self.place, self.topology, h.name) for h in self.topology.nodes)

    def address(self, host: str) -> str:
        """A host's address in the IP version of the links."""
        found = self.topology.host(host)
        return str(found.ipv6 if self.topology.ip == 6 else found.ipv4)

    def host_state(self, host: str = CALLER) -> dict[str, str]:
        """Everything that `up`, an exit or a daemon may change on a host, as text."""
        return {what: self.run(host, "sh", "-c", command).stdout for what, command in HOST_STATE.items()}

    def settle(self, host: str = CALLER) -> None:
        """Wait until the kernel adds no more routes of its own to a link that just came up."""
        looks = [self.host_state(host)]

        def agree() -> bool:
            time.sleep(0.7)
            looks.append(self.host_state(host))
            return len(looks) > 3 and looks[-1] == looks[-2] == looks[-3]

        until(agree, 15, f"the state of {host} to settle")

    def access_log(self) -> str:
        """What the Internet host wrote down."""
        return (self.place.of("web") / "access.log").read_text()

    def download(self, url: str, seconds: float) -> float:
        """Download for so long and return the bytes that came per second, in bit/s."""
        form = "%{size_download} %{time_starttransfer} %{time_total}"
        options = ["-sS", "-o", "/dev/null", "-m", f"{seconds:g}", "-w", form]
        done = self.run(CALLER, "curl", *options, url, patience=seconds + 30)
        size, first, total = map(float, done.stdout.split())
        assert size, f"nothing came from {url}: {done.stderr}"
        return 8 * size / (total - first)

    def ping(
        self, target: str, count: int = 10, interval: float = 0.2, wait: int = 5, size: int = 56
    ) -> list[float]:
        """Round-trip times in ms of the echoes that came back."""
        options = ["-n", "-c", str(count), "-i", str(interval), "-W", str(wait), "-s", str(size)]
        said = self.run(CALLER, "ping", *options, target).stdout
        return [float(line.split("time=")[1].split()[0]) for line in said.splitlines() if "time=" in line]

    def echoes(self, target: str, count: int = 10, interval: float = 0.2, wait: int = 5) -> list[float]:
        """As `ping`, on a way that works: all come back in one run of three, or most in the last."""
        came = again(lambda: self.ping(target, count, interval, wait), lambda found: len(found) == count)
        assert len(came) >= MOST * count, f"{len(came)} of {count} echoes from {target}"
        return came

    def daemon_pids(self, host: str) -> list[int]:
        """Process ids of a node's keeper, control and data plane (keeper first)."""
        keeper = int((self.place.of(host) / "node.pid").read_text())
        children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
        return [keeper, *map(int, children)]

    def kill(self, host: str) -> None:
        """End a node's daemon with SIGKILL, as a power cut would."""
        services.stop(self.place, host, "node", signal.SIGKILL)

    def start(self, host: str) -> None:
        """Start a node's daemon again."""
        services.start(self.place, host, "node", ["anonnet-tun", "run", "-c", str(self.place.config(host))])


def of_this_run(layout: dict[str, Any]) -> dict[str, Any]:
    """A lab's layout in the suite that ANONNET_LAB_SUITE names; the suite of 2003 is for t1 at most."""
    suite = os.environ.get("ANONNET_LAB_SUITE", DEFAULT_SUITE)
    if "suite" in layout or suite == DEFAULT_SUITE:
        return layout
    rate = layout.get("rate", "10m")
    if parse_profile(rate).rate_in > parse_profile("t1").rate_in:
        rate = "t1"
    return {**layout, "suite": suite, "rate": rate}


@contextmanager
def live(name: str, **layout: Any) -> Iterator[LiveLab]:
    """Bring a lab up with all its links, and remove every trace of it."""
    # Not under /tmp: the daemons give up root and must still reach their directories.
    place = Place(Path(f"/run/antest-{os.getpid()}-{name}"), f"antest-{os.getpid()}-{name}-")
    topology = build(**of_this_run(layout))
    nodes.bring_up(place, topology)
    try:
        yield LiveLab(place, topology)
    finally:
        network.destroy(place)
    assert not namespaces.existing(place)
    assert not place.directory.exists()


_Result = TypeVar("_Result")


def again(attempt: Callable[[], _Result], good: Callable[[_Result], bool], tries: int = 3) -> _Result:
    """Try what a machine that stands still can spoil until it comes out well; return what came out last.

    For measurements in real time and for datagrams that may be lost. What is at fault is so every time.
    """
    for _ in range(tries - 1):
        if good(found := attempt()):
            return found
        print(f"again, after {found!r:.500}")
    return attempt()


def until(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """Poll until a condition holds; return how long it took in seconds, fail with `what` when too late."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"{what}: not within {seconds:g} s"
        time.sleep(0.05)
    return time.monotonic() - began
